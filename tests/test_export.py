"""Do the models of ``bilateral_ops.export.onnx``, run by ONNX Runtime, compute what the package does?"""

from __future__ import annotations

import errno
import functools
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    F16,
    F32,
    GUIDES,
    U8,
    U16,
    Dtypes,
    arguments,
    as_float64,
    assert_forward,
    assert_same_bits,
    cases_of,
    forward,
    forward_example,
    python,
    reference,
    weights_of,
)

import bilateral_ops
from bilateral_ops._core.missing import install
from bilateral_ops.cli import main
from bilateral_ops.export import glsl
from bilateral_ops.hdrnet import Config, Predictor, write_model

onnx = pytest.importorskip("onnx", reason="needs bilateral_ops[onnx]")
evaluator = pytest.importorskip("onnx.reference", reason="needs bilateral_ops[onnx]")
runtime = pytest.importorskip("onnxruntime", reason="needs bilateral_ops[onnx]")

from bilateral_ops.export import onnx as export  # noqa: E402  (where onnx is missing this module is skipped)

FORMS = ("GridSample", "Gather")
FORM = pytest.mark.parametrize("form", FORMS)
SUBJECTS = (*GUIDES, "slice_apply")
EACH_CASE = [
    (subject, case, form)
    for subject in SUBJECTS
    for case, options in cases_of(subject).items()
    for form in FORMS
    if not {"xy", "index"} & options.keys()
    # ONNX Runtime's Conv, which there is beside GridSample, takes no image without pixels.
    and not (form == "GridSample" and 0 in (options.get("H"), options.get("W")))
]


def session(model: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # of runs that must fail, too
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def model_of(given: dict[str, Any], **options: Any) -> Any:
    """The model for a call's arguments: ``enhance`` where the guide is a record."""
    shape = given["grid"].shape[-5:]
    if isinstance(given["guide"], np.ndarray):
        return export.slice_apply(shape, Ci=given["image"].shape[-1], **options)
    return export.enhance(shape, given["guide"], **options)


def run(made: Any, given: dict[str, Any], window: Any = None) -> Any:
    """The result of a session for a call's arguments, batched or not."""
    feeds = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    batched = feeds["image"].ndim == 4
    feeds = {name: value if batched else value[None] for name, value in feeds.items()}
    if window is not None:
        feeds["window"] = np.array(window, np.int64)
    (out,) = made.run(None, feeds)
    return out if batched else out[0]


def small(subject: str = "enhance(curves)", dtypes: Dtypes = ALL_F32, **options: Any) -> dict[str, Any]:
    return arguments(subject, dtypes, **{"N": 2, "H": 9, "W": 11, "Gh": 3, "Gw": 4, "Gd": 5, **options})


@pytest.mark.parametrize(("subject", "case", "form"), EACH_CASE)
def test_a_model_equals_the_specification(subject: str, case: str, form: str) -> None:
    example = forward_example(subject, case, ALL_F32)
    keywords = dict(example.keywords)
    window = keywords.pop("window", None)
    made = model_of(example.arguments, form=form, **keywords, window=window is not None)
    assert_forward(run(session(made), example.arguments, window), example.result, F32)


@FORM
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_evaluator_of_the_standard_computes_the_same(subject: str, form: str) -> None:
    for dtypes in (ALL_F32, Dtypes(U8, F32, F32)):
        given = small(subject, dtypes, H=4)
        made = model_of(given, form=form, image=dtypes.image.name, align_corners=True, window=True)
        out = run(evaluator.ReferenceEvaluator(made), given, (0, 0, 4, 11))
        want = forward(reference, subject, as_float64(given), align_corners=True)
        assert_forward(out, want, dtypes.image)


@FORM
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "dtypes", [Dtypes(U8, F32, F32), Dtypes(U16, F32, F32), Dtypes(F16, F32, F32), Dtypes(F16, F16, F16)]
)
@pytest.mark.parametrize("subject", GUIDES)
def test_kinds_of_images_and_layouts(subject: str, dtypes: Dtypes, layout: str, form: str) -> None:
    given = small(subject, dtypes)
    # Parameters are kept in float32, which every 16-bit float is.
    made = session(model_of(given, form=form, layout=layout, image=dtypes.image.name, grid=dtypes.rest.name))
    first = layout == "NCHW"
    out = run(made, {**given, "image": np.moveaxis(given["image"], -1, 1) if first else given["image"]})
    want = forward(reference, subject, as_float64(given))
    assert_forward(np.moveaxis(out, 1, -1) if first else out, want, dtypes.image)


@FORM
def test_one_model_takes_images_and_batches_of_every_size(form: str) -> None:
    given = small()
    made = session(model_of(given, form=form))
    for N, H, W in ((1, 1, 1), (3, 1, 17), (1, 40, 2), (2, 33, 65)):
        sized = small(N=N, H=H, W=W)
        sized["guide"] = given["guide"]
        assert_forward(run(made, sized), forward(reference, "enhance(curves)", as_float64(sized)), F32)


@FORM
@pytest.mark.parametrize(
    ("text", "shape", "order"),
    [
        ("N (L Co Gd) Gh Gw", (2, 60, 3, 4), (0, 5, 4, 3, 1, 2)),
        ("N (Co L) Gd Gh Gw", (2, 12, 5, 3, 4), (0, 4, 5, 3, 1, 2)),
        ("N Gh Gw (Gd Co L)", (2, 3, 4, 60), (0, 1, 2, 3, 4, 5)),
        ("(L Gw) N (Gh Gd Co)", (16, 2, 45), (5, 2, 0, 1, 3, 4)),
    ],
)
def test_axes_of_the_grid(text: str, shape: tuple[int, ...], order: tuple[int, ...], form: str) -> None:
    given = small()
    want = run(session(model_of(given, form=form)), given)
    laid = np.ascontiguousarray(given["grid"].transpose(order)).reshape(shape)
    made = model_of(given, form=form, grid_axes=text)
    assert tuple(d.dim_value or d.dim_param for d in made.graph.input[0].type.tensor_type.shape.dim) == tuple(
        "N" if size == 2 else size for size in shape
    )
    assert_same_bits(run(session(made), {**given, "grid": laid}), want)


@FORM
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("xy", ["centers", "corners"])
def test_tiles_equal_the_whole(form: str, xy: str, align_corners: bool) -> None:
    given = small(H=23, W=37)
    whole = run(session(model_of(given, form=form, xy=xy, align_corners=align_corners)), given)
    tiled = session(model_of(given, form=form, xy=xy, align_corners=align_corners, window=True))
    for top, bottom in ((0, 1), (1, 14), (14, 23)):
        for left, right in ((0, 16), (16, 37)):
            tile = {**given, "image": given["image"][:, top:bottom, left:right]}
            assert_same_bits(run(tiled, tile, (top, left, 23, 37)), whole[:, top:bottom, left:right])


@FORM
def test_special_values_in_the_guide(form: str) -> None:
    given = small("slice_apply")
    given["guide"][0, 2, 3:6] = np.nan, np.inf, -np.inf
    clamped = {**given, "guide": np.nan_to_num(given["guide"], nan=0.5)}
    want = forward(reference, "slice_apply", as_float64(clamped))
    made = model_of(given, form=form)
    for runs in (session(made), evaluator.ReferenceEvaluator(made)):
        out = run(runs, given)
        assert np.isnan(out[0, 2, 3]).all()
        out[0, 2, 3] = want[0, 2, 3]
        assert_forward(out, want, F32)


@FORM
def test_nan_becomes_zero_in_an_integer_image(form: str) -> None:
    given = small("slice_apply", Dtypes(U8, F32, F32))
    given["guide"][1, 0, 0] = np.nan
    out = run(session(model_of(given, form=form, image="uint8")), given)
    assert_forward(out, np.nan_to_num(forward(reference, "slice_apply", as_float64(given))), U8)


@FORM
def test_models_of_every_opset(form: str) -> None:
    given = small("enhance(nn)")
    want = forward(reference, "enhance(nn)", as_float64(given))
    oldest = {"GridSample": 20, "Gather": 13}[form]
    for opset in range(oldest, 23):
        made = model_of(given, form=form, opset=opset)
        assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", opset)]
        assert_forward(run(session(made), given), want, F32)
        assert ("GridSample" in {node.op_type for node in made.graph.node}) == (form == "GridSample")


def test_a_model_says_what_it_is(tmp_path: Path) -> None:
    made = model_of(small(), form="Gather", xy="centers", align_corners=True)
    export.save(made, tmp_path / "model.onnx")
    read = onnx.load(tmp_path / "model.onnx")
    assert read == made
    assert (read.producer_name, read.producer_version) == ("bilateral_ops", bilateral_ops.__version__)
    assert {entry.key: entry.value for entry in read.metadata_props} == {
        "bilateral_ops.form": "Gather",
        "bilateral_ops.guide": "curves",
        "bilateral_ops.grid_axes": "N Gh Gw Gd Co L",
        "bilateral_ops.xy": "centers",
        "bilateral_ops.align_corners": "True",
    }
    assert (
        read.doc_string
        == "A bilateral grid of (Gh, Gw, Gd, Co, L) = (3, 4, 5, 3, 4), looked up by Gather; the guide: curves."
    )
    assert {node.name.partition("/")[0] for node in read.graph.node} == {"grid", "guide", "slice", "apply", "out"}


def test_parameters_may_be_tensors_of_another_framework() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    given = small("enhance(nn)")
    record = given["guide"]
    tensors = type(record)(*(torch.from_numpy(np.array(value)) for value in vars(record).values()))
    assert export.enhance((3, 4, 5, 3, 4), tensors) == export.enhance((3, 4, 5, 3, 4), record)


# ---------------------------------------------------------------------------------------------------------------------
# Behind a network
# ---------------------------------------------------------------------------------------------------------------------

WEIGHTS = np.random.default_rng(3).standard_normal((60, 3, 3, 3)).astype(F32)


@functools.cache
def network(opset: int = 20, image: str = "small", channels: int = 60) -> Any:
    """A convolution that makes (N, 60, h/2, w/2) of (N, 3, h, w), and something else."""
    info = functools.partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", [image, "weights"], ["coefficients"], strides=[2, 2], pads=[1, 1, 1, 1]),
            onnx.helper.make_node("Relu", ["coefficients"], ["other"]),
        ],
        "network",
        [info(image, shape=["N", 3, "H", "W"])],
        [info("coefficients", shape=["N", channels, 3, 4]), info("other", shape=["N", channels, 3, 4])],
        [onnx.numpy_helper.from_array(WEIGHTS[:channels], "weights")],
    )
    versions = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=versions, ir_version=8)


def coefficients(picture: Any) -> Any:
    """The network in NumPy: N, 60, 3, 4."""
    padded = np.pad(picture, ((0, 0), (0, 0), (1, 1), (1, 1)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    return np.einsum("ncyxij,ocij->noyx", views, WEIGHTS)


@FORM
@pytest.mark.parametrize("from_file", [False, True], ids=["model", "path"])
def test_a_model_behind_a_network(form: str, from_file: bool, tmp_path: Path) -> None:
    given = small()
    full = model_of(given, form=form, grid_axes="N (L Co Gd) Gh Gw")
    before = network().SerializeToString(), full.SerializeToString()
    first = network()
    if from_file:
        first = tmp_path / "network.onnx"
        export.save(network(), first)
    whole = export.behind(first, full, output="coefficients")
    assert (network().SerializeToString(), full.SerializeToString()) == before
    assert [value.name for value in whole.graph.input] == ["small", "image"]
    assert [value.name for value in whole.graph.output] == ["out"]

    picture = np.random.default_rng(4).random((2, 3, 6, 8), dtype=F32)
    grid = coefficients(picture).reshape(2, 4, 3, 5, 3, 4).transpose(0, 4, 5, 3, 2, 1)
    want = forward(reference, "enhance(curves)", as_float64({**given, "grid": np.ascontiguousarray(grid)}))
    (out,) = session(whole).run(None, {"small": picture, "image": given["image"]})
    assert_forward(out, want, F32)


@pytest.mark.filterwarnings("ignore")  # PyTorch's exporter has many
def test_a_model_behind_a_network_that_pytorch_exported(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    given = small("enhance(luma)")
    layers = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 60, 1)
    picture = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(5))
    names = {"input_names": ["small"], "output_names": ["coefficients"]}
    file = tmp_path / "network.onnx"
    torch.onnx.export(torch.nn.Sequential(*layers), (picture,), file, opset_version=20, verbose=False, **names)
    whole = session(export.behind(file, model_of(given, grid_axes="N (L Co Gd) Gh Gw")))

    with torch.no_grad():
        grid = torch.nn.Sequential(*layers)(picture).reshape(2, 4, 3, 5, 3, 4).permute(0, 4, 5, 3, 2, 1)
    want = forward(reference, "enhance(luma)", as_float64({**given, "grid": grid.numpy()}))
    (out,) = whole.run(None, {"small": picture.numpy(), "image": given["image"]})
    assert_forward(out, want, F32)


def test_a_prefix_keeps_names_apart() -> None:
    full = model_of(small(), grid_axes="N (L Co Gd) Gh Gw")
    with pytest.raises(ValueError, match=r"prefix must make all names differ .*, got '' and image in both"):
        export.behind(network(image="image"), full, output="coefficients")
    whole = export.behind(network(image="image"), full, output="coefficients", prefix="full/")
    assert [value.name for value in whole.graph.input] == ["image", "full/image"]
    assert [value.name for value in whole.graph.output] == ["full/out"]


def test_what_behind_refuses() -> None:
    full = model_of(small(), grid_axes="N (L Co Gd) Gh Gw")
    for first, output, sentence in (
        (network(), None, "onnx.behind: output must be one of coefficients, other, got None."),
        (network(), "grid", "onnx.behind: output must be one of coefficients, other, got 'grid'."),
        (
            network(opset=17),
            "other",
            "onnx.behind: network must have the opset of full, 20, got 17; make full with opset=17, or convert the "
            "network with onnx.version_converter.",
        ),
        (
            network(channels=48),
            "other",
            "onnx.behind: other must be float32 of shape (N, 60, 3, 4) to be the grid, got float32 of (N, 48, 3, 4).",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            export.behind(first, full, output=output)


# ---------------------------------------------------------------------------------------------------------------------
# A grid or a lookup table alone
# ---------------------------------------------------------------------------------------------------------------------


def sampled(made: Any, given: dict[str, Any]) -> Any:
    return made.run(None, {name: value for name, value in given.items() if isinstance(value, np.ndarray)})[0]


@FORM
@pytest.mark.parametrize(
    ("options", "rule"),
    [({}, {}), ({"rule": "corners"}, {"xy": "corners"}), ({"xy": True}, {"xy": "array"})],
    ids=["plain", "rule", "array"],
)
@pytest.mark.parametrize("align_corners", [False, True])
def test_slice_equals_the_specification(form: str, options: dict[str, Any], rule: Any, align_corners: bool) -> None:
    own = {key: value for key, value in options.items() if key == "xy"}
    given = arguments("slice", ALL_F32, N=2, C=(3,), Gh=3, Gw=4, Gd=5, **own)
    keywords = {"align_corners": align_corners, **({"xy": "corners"} if options.get("rule") else {})}
    want = forward(reference, "slice", as_float64(given), **keywords)
    shape = given["grid"].shape[1:]
    made = export.slice(shape, form=form, align_corners=align_corners, **rule)
    assert_forward(sampled(session(made), given), want, F32)
    first = export.slice(shape, form=form, align_corners=align_corners, layout="NCHW", grid_axes="N C Gd Gh Gw", **rule)
    laid = {**given, "grid": np.ascontiguousarray(given["grid"].transpose(0, 4, 3, 1, 2))}
    assert_forward(np.moveaxis(sampled(session(first), laid), 1, -1), want, F32)


def test_what_slice_refuses() -> None:
    for options, sentence in (
        ({"grid_shape": (3, 4, 5)}, "grid_shape must be four integers (Gh, Gw, Gd, C), got (3, 4, 5)."),
        ({"grid_shape": (3, 4, 0, 3)}, "grid_shape must be (Gh, Gw, Gd, C), all of them at least 1, got (3, 4, 0, 3)."),
        ({"xy": "array", "window": True}, "window must be False where xy is 'array', got True."),
        ({"xy": "edges"}, "xy must be one of centers, corners, array, got 'edges'."),
    ):
        with pytest.raises(ValueError, match=rf"^onnx\.slice: {re.escape(sentence)}$"):
            export.slice(**{"grid_shape": (3, 4, 5, 3), **options})


# ---------------------------------------------------------------------------------------------------------------------
# A trained network
# ---------------------------------------------------------------------------------------------------------------------

PHOTOGRAPH = np.random.default_rng(6).integers(0, 256, (2, 70, 45, 3), np.uint8)


@functools.cache
def predictor_of(name: str) -> Predictor:
    if name == "packaged":
        return Predictor.load()
    small = {"net_input": 32, "spatial_bin": 8, "luma_bins": 4, "guide_complexity": 5}
    config = {
        "scales": Config(**small, scales=3, guide="nn", batch_norm=True),
        "local": Config(**small, guide="luma", global_path=False),
        "as a port's": Config(**small, guide="nn", guide_norm=False, padding="symmetric", global_convolutions=1),
        "wide": Config(**{**small, "net_input": (32, 64), "spatial_bin": (8, 16)}),
    }[name]
    return Predictor(config, weights_of(config))


@FORM
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("name", ["packaged", "scales", "local", "as a port's", "wide"])
def test_a_trained_network(name: str, layout: str, form: str) -> None:
    predictor = predictor_of(name)
    made = session(export.hdrnet(predictor, form=form, layout=layout))

    def laid(image: Any) -> Any:
        return image if layout == "NHWC" else np.moveaxis(image, -1, 1)

    for image in (PHOTOGRAPH / F32.type(255), PHOTOGRAPH[:1, :33, :20] / F32.type(255)):
        want = predictor(image)
        (out,) = made.run(None, {"image": laid(image)})
        assert np.abs(out - laid(want)).max() <= 1e-5 * np.abs(want).max()
    network, render = (session(export.hdrnet(predictor, part=part, form=form)) for part in ("network", "render"))
    low = predictor.low_resolution(image)
    (grid,) = network.run(None, {"low": low})
    want = predictor.grid(low)
    assert np.abs(grid.reshape(want.shape) - want).max() <= 1e-5 * np.abs(want).max()
    (out,) = render.run(None, {"grid": grid, "image": image})
    assert np.abs(out - predictor(image)).max() <= 1e-5 * np.abs(out).max()


@FORM
def test_a_trained_network_on_integers(form: str) -> None:
    made = session(export.hdrnet(form=form, image="uint8"))
    (out,) = made.run(None, {"image": PHOTOGRAPH})
    assert out.dtype == U8
    assert np.abs(out.astype(int) - Predictor.load()(PHOTOGRAPH)).max() <= 1


def test_gather_has_few_axes_and_plain_operators() -> None:
    """What converters to small runtimes take; shapes are inferred for a given size."""
    made = export.hdrnet(form="Gather", opset=13)
    operators = {node.op_type for node in made.graph.node}
    assert not operators & {"IsNaN", "GridSample", "GatherND", "ScatterND", "Einsum", "Expand", "Loop", "If"}
    for value in made.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = {"N": 1, "full_H": 70, "full_W": 45}[dimension.dim_param]
    inferred = onnx.shape_inference.infer_shapes(made, data_prop=True).graph.value_info
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred}
    assert ranks
    assert max(ranks.values()) <= 4


#: What TensorRT's parser documents (onnx-tensorrt, docs/operators.md, 10.15): the operators that models have, and of
#: which types their inputs may be. Integers of 8 bits are inputs and outputs of a model alone, which `Cast` reads and
#: writes; a `GridSample` has four axes; `Resize` interpolates linearly by one of five rules, without antialiasing.
_NUMBERS = {"FLOAT", "FLOAT16", "INT32", "INT64"}
_FLOATS = {"FLOAT", "FLOAT16"}
_ANY = {*_NUMBERS, "BOOL"}
TENSORRT = {
    **dict.fromkeys(("Add", "Div", "Equal", "Max", "Min", "Mul", "Range", "Sub"), _NUMBERS),
    **dict.fromkeys(("Concat", "Gather", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Transpose"), _ANY),
    **dict.fromkeys(("Unsqueeze", "Where"), _ANY),
    **dict.fromkeys(("Clip", "Conv", "Floor", "GridSample", "MatMul", "Relu", "Resize", "Round", "Sigmoid"), _FLOATS),
    "Cast": {*_NUMBERS, "UINT8", "BOOL"},
    "Not": {"BOOL"},
}


def refused_by_tensorrt(made: Any) -> set[str]:
    """The operators of a model that TensorRT's documentation does not have so."""
    inferred = onnx.shape_inference.infer_shapes(made, data_prop=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in values}
    types |= {value.name: onnx.TensorProto.DataType.Name(value.data_type) for value in inferred.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    constants = {value.name for value in inferred.initializer}
    refused = set()
    for node in inferred.node:
        names = [name for name in node.input if name]
        given = {types[name] for name in names}
        axes = {"Squeeze": 1, "Unsqueeze": 1, "Slice": 3}.get(node.op_type)
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        fits = given <= TENSORRT.get(node.op_type, set()) | ({"INT64"} if node.op_type == "Resize" else set())
        fits &= axes is None or node.input[axes] in constants
        fits &= not (node.op_type == "GridSample" and ranks[names[0]] != 4)
        if node.op_type == "Cast":
            fits &= onnx.TensorProto.DataType.Name(attributes["to"]) in TENSORRT["Cast"]
        if node.op_type == "Resize":
            fits &= attributes["mode"] == b"linear"
            fits &= attributes["coordinate_transformation_mode"] in (b"half_pixel", b"asymmetric", b"align_corners")
            fits &= not {"axes", "antialias", "keep_aspect_ratio_policy"} & attributes.keys()
        if not fits:
            refused.add(node.op_type)
    return refused


@pytest.mark.parametrize("image", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("name", ["packaged", "scales", "local", "as a port's", "wide"])
def test_gather_has_what_tensorrt_documents(name: str, layout: str, image: str) -> None:
    options: Any = {"layout": layout, "image": image}
    assert not refused_by_tensorrt(export.hdrnet(predictor_of(name), **options))
    assert not refused_by_tensorrt(export.enhance((3, 4, 5, 3, 4), bilateral_ops.LumaGuide(), form="Gather", **options))


def test_what_tensorrt_does_not_have() -> None:
    assert refused_by_tensorrt(export.hdrnet(form="GridSample")) == {"Expand", "GridSample"}
    assert "Cast" in refused_by_tensorrt(export.hdrnet(image="uint16"))


@FORM
def test_without_what_nan_takes(form: str) -> None:
    shape = (3, 4, 5, 3, 4)
    made = export.hdrnet(form=form, nan=False)
    others = [export.slice_apply(shape, form=form, nan=False), export.slice(shape[:4], form=form, nan=False)]
    for each in (made, export.enhance(shape, bilateral_ops.LumaGuide(), form=form, nan=False), *others):
        assert not {node.op_type for node in each.graph.node} & {"Equal", "Not", "Where", "IsNaN", "Pad"}
    image = PHOTOGRAPH / F32.type(255)
    assert np.abs(session(made).run(None, {"image": image})[0] - Predictor.load()(image)).max() <= 1e-5


def test_what_hdrnet_refuses() -> None:
    for options, sentence in (
        ({"part": "guide"}, "part must be one of whole, network, render, got 'guide'."),
        ({"window": True}, "window must be False but for the part render of a model of one scale, got True."),
    ):
        with pytest.raises(ValueError, match=rf"^onnx\.hdrnet: {re.escape(sentence)}$"):
            export.hdrnet(**options)


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": "Scatter"}, "form must be one of GridSample, Gather, got 'Scatter'."),
        ({"layout": "HWC"}, "layout must be one of NHWC, NCHW, got 'HWC'."),
        ({"image": "float64"}, "image must be one of float16, float32, uint8, uint16, got 'float64'."),
        ({"grid": "uint8"}, "grid must be one of float32, float16, got 'uint8'."),
        (
            {"form": np.array(["GridSample", "Gather"])},
            "form must be one of GridSample, Gather, got array(['GridSample', 'Gather'], dtype='<U10').",
        ),
        ({"xy": np.zeros((1, 2))}, "xy must be one of centers, corners, got array([[0., 0.]])."),
        ({"opset": "20"}, f"opset must be 20 to {onnx.defs.onnx_opset_version()} for GridSample, got '20'."),
        ({"opset": 20.0}, f"opset must be 20 to {onnx.defs.onnx_opset_version()} for GridSample, got 20.0."),
        ({"opset": 19}, f"opset must be 20 to {onnx.defs.onnx_opset_version()} for GridSample, got 19."),
        (
            {"grid_shape": (16, 16, 8, 3, 5)},
            "grid_shape must be (Gh, Gw, Gd, Co, 3 or 4), all of them at least 1, for an image of 3 channels, got "
            "(16, 16, 8, 3, 5).",
        ),
        (
            {"grid_shape": (16, 0, 8, 3, 4)},
            "grid_shape must be (Gh, Gw, Gd, Co, 3 or 4), all of them at least 1, for an image of 3 channels, got "
            "(16, 0, 8, 3, 4).",
        ),
        *(
            (
                {"grid_axes": text},
                "grid_axes must name each of N, Gh, Gw, Gd, Co, L once, N by itself, as 'N (L Co Gd) Gh Gw' does, "
                f"got {text!r}.",
            )
            for text in (
                None,
                ("N", "Gh", "Gw", "Gd", "Co", "L"),
                "N Gh Gw Gd Co",
                "(N Gh) Gw Gd Co L",
                "N (Gh Gw Gd Co L",
                "N Gh) Gw Gd Co L",
                "N (Gh (Gw) Gd Co L)",
            )
        ),
    ],
)
def test_errors(options: dict[str, Any], sentence: str) -> None:
    shape = options.pop("grid_shape", (16, 16, 8, 3, 4))
    with pytest.raises(ValueError, match=rf"^onnx\.slice_apply: {re.escape(sentence)}$"):
        export.slice_apply(shape, **options)
    with pytest.raises(ValueError, match=rf"^onnx\.enhance: {re.escape(sentence)}$"):
        export.enhance(shape, bilateral_ops.LumaGuide(), **options)


def test_errors_of_the_guide() -> None:
    with pytest.raises(TypeError, match=r"^onnx.enhance: guide must be a CurvesGuide, NNGuide or LumaGuide, got str.$"):
        export.enhance((2, 2, 2, 3, 4), "luma")
    record = bilateral_ops.NNGuide(np.ones((4, 3)), np.ones(5), np.ones(4), 0.0)
    with pytest.raises(ValueError, match=r"^guide_nn: b1 must have shape \(F,\) = \(4,\) to match w1, got \(5,\).$"):
        export.enhance((2, 2, 2, 3, 4), record)


def test_a_missing_onnx_is_named() -> None:
    finished = python("import sys; sys.modules['onnx'] = None; import bilateral_ops.export.onnx")
    assert finished.returncode == 1
    assert f"needs onnx, which is not installed; {install('onnx')}." in finished.stderr
    assert python("import sys, bilateral_ops.export; assert 'onnx' not in sys.modules").returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_the_function_makes(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "model.onnx"
    assert main(["export", "--to", "onnx", "--out", str(file), "--image", "uint8", "--layout", "NCHW"]) == 0
    assert onnx.load(file) == export.hdrnet(image="uint8", layout="NCHW", opset=13)
    write_model(tmp_path / "own.safetensors", predictor_of("local").config, weights_of(predictor_of("local").config))
    options = ["--out", str(file), "--split", "--form", "GridSample", "--no-nan"]
    assert main(["export", str(tmp_path / "own.safetensors"), "--to", "onnx", *options]) == 0
    for part in ("network", "render"):
        written = onnx.load(tmp_path / f"model.{part}.onnx")
        assert written == export.hdrnet(predictor_of("local"), part=part, form="GridSample", nan=False)
    assert capsys.readouterr().out.split() == [
        str(file),
        *(str(tmp_path / f"model.{p}.onnx") for p in ("network", "render")),
    ]


def test_the_command_writes_folders(tmp_path: Path, capsys: Any) -> None:
    own = tmp_path / "own.safetensors"
    write_model(own, predictor_of("local").config, weights_of(predictor_of("local").config))
    folders = [tmp_path / name for name in ("glsl", "web")]
    for folder in folders:
        assert main(["export", str(own), "--to", folder.name, "--out", str(folder)]) == 0
    assert capsys.readouterr().out.split() == list(map(str, folders))
    names = {"network.onnx", "triangle.vert", "resize_area.frag", "exact.frag", "fast.frag", "model.json"}
    assert {file.name for file in folders[0].iterdir()} == names
    pages = {"index.html", "style.css", "app.js", "renderer.js", "model.js", "model.onnx"}
    assert {file.name for file in folders[1].iterdir()} == pages
    networks = [onnx.load(folder / name).graph for folder, name in zip(folders, ("network.onnx", "model.onnx"))]
    assert networks[0] == networks[1] == export.hdrnet(predictor_of("local"), part="network", opset=13).graph


def test_sentences_of_the_command(tmp_path: Path, capsys: Any) -> None:
    nowhere = tmp_path / "nowhere" / "model.onnx"
    own = tmp_path / "scales.safetensors"
    write_model(own, predictor_of("scales").config, weights_of(predictor_of("scales").config))
    for to, options, sentence in (
        ("web", ["--form", "Gather"], "export: --form is for onnx, and not for web."),
        ("onnx", ["--size", "9x9"], "export: --size is for tflite, ncnn, and not for onnx."),
        ("ncnn", [], "export: --size is needed, as ncnn files are for images of one size: --size 1920x1080."),
        ("tflite", ["--size", "9x0"], "argument --size: must be WIDTHxHEIGHT such as 1920x1080, got '9x0'"),
        ("glsl", [str(own)], "export: glsl.save: model must have one scale, got 3; these shaders have no pyramid."),
        ("web", ["--out", str(own)], f"export: cannot open {own} (File exists)."),
    ):
        try:
            code = main(["export", "--to", to, "--out", str(tmp_path / "model"), *options])
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        assert sentence in capsys.readouterr().err
    for options, sentence in (
        (["--out", str(nowhere)], f"export: cannot open {nowhere} (No such file or directory)."),
        (["nothing", "--out", "model.onnx"], "export: cannot open nothing (No such file or directory)."),
        (["--out", str(nowhere), "--opset", "5"], "export: onnx.hdrnet: opset must be 13 to "),
    ):
        assert main(["export", "--to", "onnx", *options]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no full device here")
def test_the_command_says_what_it_cannot_write(capsys: Any) -> None:
    assert main(["export", "--to", "onnx", "--out", "/dev/full"]) == 2
    assert "export: cannot write /dev/full (No space left on device)." in capsys.readouterr().err


def _by_pnnx(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    from bilateral_ops.export import ncnn

    def convert(*_: Any, cwd: str, **__: Any) -> Any:
        for ending in ("param", "bin"):
            Path(cwd, f"model.ncnn.{ending}").write_text("new")
        return subprocess.CompletedProcess((), 0)

    monkeypatch.setattr(ncnn, "_pnnx", lambda: "pnnx")
    monkeypatch.setattr(subprocess, "run", convert)
    ncnn.save(None, file, size=(8, 8), part="network")


def _by_litert(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    pytest.importorskip("torch", reason="needs bilateral_ops[torch]")
    from bilateral_ops.export import tflite

    class Made:
        def export(self, path: str) -> None:
            Path(path).write_text("new")

    monkeypatch.setattr(tflite, "converted", lambda *_, **__: Made())
    tflite.save(None, file, size=(8, 8))


#: A file that each format writes, and what writes it.
WRITERS = {
    "model.onnx": lambda _, file: export.save(export.hdrnet(part="network"), file),
    "model.json": lambda _, file: glsl.save(None, file.parent),
    "app.js": lambda _, file: glsl.web(None, file.parent),
    "model.param": _by_pnnx,
    "model.bin": lambda monkeypatch, file: _by_pnnx(monkeypatch, file.with_suffix(".param")),
    "model.tflite": _by_litert,
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_export_that_fails_leaves_the_file_as_it_was(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / name
    file.write_text("old")
    replace = os.replace

    def full(part: Path, path: str) -> None:
        if Path(path).name == name:
            assert file.read_text() == "old"
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(part, path)

    with monkeypatch.context() as fails:
        fails.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            WRITERS[name](fails, file)
    assert file.read_text() == "old"
    assert not list(tmp_path.glob(".*"))
    WRITERS[name](monkeypatch, file)
    assert file.read_bytes() != b"old"
