"""Is a model of a public PyTorch port of HDRnet, brought in with its weights, the port's?

Each port's forward is written here from its description: names, paddings, how channels are unrolled, ``grid_sample``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import weights_of

from bilateral_ops.hdrnet import Config, Predictor, from_pytorch, write_model

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional


@dataclass(frozen=True)
class Port:
    """What a port does. ``coordinates`` are what it hands to ``grid_sample`` as x, y and z."""

    names: str
    unroll: str  # axes of the prediction's channels
    coordinates: tuple[str, str, str] | None  # None: the original's slice, in plain PyTorch
    align_corners: bool = False
    padding_mode: str = "zeros"
    activation: str = "sigmoid"
    signed: bool = False  # whether the guide is spread to [-1, 1] first
    said: dict[str, Any] = field(default_factory=dict)  # to from_pytorch
    norm: bool = True
    net: int = 64
    cells: int = 16
    depth: int = 8
    multiplier: int = 1


PORTS = {
    "creotiv/hdrnet-pytorch, 2022": Port("creotiv", "z entry", None),
    "creotiv/hdrnet-pytorch, 2022, other sizes": Port(
        "creotiv", "z entry", None, norm=False, net=32, cells=8, depth=4, multiplier=2
    ),
    "creotiv/hdrnet-pytorch, April 2021": Port(
        "creotiv",
        "z out in",
        ("y", "x", "z"),
        align_corners=True,
        said={"layout": "z_out_in", "xy": "corners", "align_corners": True, "guide_range": "-1..1", "grid_axes": "xyz"},
    ),
    "creotiv/hdrnet-pytorch, November 2020": Port(
        "creotiv",
        "z out in",
        ("x", "y", "z"),
        align_corners=True,
        said={"layout": "z_out_in", "xy": "corners", "align_corners": True, "guide_range": "-1..1"},
    ),
    "creotiv/hdrnet-pytorch, April 2020": Port(
        "creotiv",
        "out in z",
        ("x", "y", "z"),
        activation="tanh",
        said={"layout": "out_in_z", "activation": "tanh", "xy": "corners", "padding_mode": "zeros"},
    ),
    "creotiv/hdrnet-pytorch, 2019": Port(
        "creotiv",
        "out in z",
        ("z", "y", "x"),
        align_corners=True,
        activation="tanh",
        said={
            "layout": "out_in_z",
            "activation": "tanh",
            "xy": "corners",
            "align_corners": True,
            "grid_axes": "yzx",
        },
    ),
    "hello-jinwoo/hdrnet-ciplab": Port(
        "creotiv",
        "z out in",
        ("x", "y", "z"),
        said={"layout": "z_out_in", "xy": "corners", "guide_range": "-1..1", "padding_mode": "zeros"},
    ),
    "gejinchen/HDRnet-PyTorch": Port(
        "gejinchen", "out in z", ("x", "y", "z"), padding_mode="border", signed=True, net=256
    ),
    "lcj1105/hdrnet.pytorch": Port(
        "lcj1105", "out in z", ("z", "y", "x"), align_corners=True, activation="tanh", net=256
    ),
    # Code of 2019 with a PyTorch since 1.3, whose grid_sample does not align corners.
    "creotiv/hdrnet-pytorch, 2019, newer PyTorch": Port(
        "creotiv",
        "out in z",
        ("z", "y", "x"),
        activation="tanh",
        said={
            "layout": "out_in_z",
            "activation": "tanh",
            "xy": "corners",
            "align_corners": False,
            "padding_mode": "zeros",
            "grid_axes": "yzx",
        },
    ),
    "lcj1105/hdrnet.pytorch, newer PyTorch": Port(
        "lcj1105",
        "out in z",
        ("z", "y", "x"),
        activation="tanh",
        net=256,
        said={"align_corners": False, "padding_mode": "zeros"},
    ),
}
EACH = pytest.mark.parametrize("port", PORTS.values(), ids=list(PORTS))


def named(port: Port, kind: str, i: int) -> tuple[str, str]:
    """The names of a module's convolution or fully connected layer, and of its batch norm."""
    if port.names == "creotiv":
        modules = {"splat": "splat_features", "conv": "global_features_conv", "fc": "global_features_fc"}
        module = f"coeffs.{modules.get(kind, 'local_features')}.{i}"
        module = {"prediction": "coeffs.conv_out", "guide": f"guide.conv{i + 1}"}.get(kind, module)
        return f"{module}.{'fc' if kind == 'fc' else 'conv'}", f"{module}.bn"
    if port.names == "gejinchen":
        module = {"conv": f"global{i + 1}", "fc": f"global{i + 3}", "prediction": "pred"}.get(kind, f"{kind}{i + 1}")
        return f"coefficients.{module}.0", f"coefficients.{module}.1"
    if kind == "prediction":
        return "linear", ""
    module = {"conv": f"global_conv.{i}.conv", "fc": f"global_fc.{i}.fc", "guide": f"guide_func.conv{i + 1}.conv"}
    inner = module.get(kind, f"{kind}_conv.{i}.conv")
    return f"{inner}.{'fc' if kind == 'fc' else 'conv'}", f"{inner}.bn"


class Plain:
    """A port's network in plain PyTorch, of weights that are made up as they are asked for."""

    def __init__(self, port: Port) -> None:
        self.port, self.state, self.random = port, {}, torch.Generator().manual_seed(5)

    def weight(self, name: str, shape: tuple[int, ...], scale: float) -> Any:
        if name not in self.state:
            self.state[name] = torch.randn(shape, generator=self.random) * scale
        return self.state[name].double()

    def layer(self, x: Any, kind: str, i: int, outputs: int, **options: Any) -> Any:
        size, stride = options.get("size", 0 if kind == "fc" else 3), options.get("stride", 1)
        own, norm = named(self.port, kind, i)
        shape = (outputs, x.shape[1], *[size] * (2 if size else 0))
        weight = self.weight(f"{own}.weight", shape, (2 / np.prod(shape[1:])) ** 0.5)
        bias = self.weight(f"{own}.bias", (outputs,), 0.2) if options.get("bias", True) else None
        x = F.conv2d(x, weight, bias, stride, size // 2) if size else F.linear(x, weight, bias)
        if options.get("norm", self.port.norm):
            mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
            self.state.setdefault(variance, torch.rand(outputs, generator=self.random) + 0.5)
            self.state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
            factor, offset = (self.weight(f"{norm}.{key}", (outputs,), 0.7) for key in ("weight", "bias"))
            x = F.batch_norm(x, self.weight(mean, (outputs,), 0.3), self.state[variance].double(), factor, offset)
        return F.relu(x) if options.get("relu", True) else x

    def grid(self, low: Any) -> Any:
        """(N, 12, Gd, Gh, Gw)"""
        port = self.port
        width = port.depth * port.multiplier
        x = low
        for i in range(int(np.log2(port.net / port.cells))):
            x = self.layer(x, "splat", i, width << i, stride=2, norm=port.norm and i > 0)
        splat = x
        for i in range(int(np.log2(port.cells / 4))):
            x = self.layer(x, "conv", i, 8 * width, stride=2)
        x = x.flatten(1)
        for i, outputs in enumerate((32 * width, 16 * width, 8 * width)):
            last = i == 2
            normed = port.norm and (not last or port.names == "creotiv")
            bias = port.names != "creotiv" or not normed
            x = self.layer(x, "fc", i, outputs, norm=normed, bias=bias, relu=not last)
        local = self.layer(splat, "local", 0, 8 * width)
        local = self.layer(local, "local", 1, 8 * width, norm=False, bias=False, relu=False)
        x = F.relu(local + x[:, :, None, None])
        x = self.layer(x, "prediction", 0, 12 * port.depth, size=1, norm=False, relu=False)
        cells = x.shape[2:]
        if port.unroll.startswith("z"):
            return torch.stack(torch.split(x, 12, 1), 2)
        return x.view(len(x), 12, port.depth, *cells)

    def guide(self, image: Any) -> Any:
        """(N, 1, H, W)"""
        if self.port.names == "gejinchen":
            matrix, offset = self.weight("guide.M", (3, 3), 0.5), self.weight("guide.M_bias", (3,), 0.1)
            pixels = image.permute(0, 2, 3, 1) @ matrix + offset
            self.state.setdefault("guide.thresholds", torch.linspace(0, 0.9, 16).repeat(1, 1, 3, 1))
            slopes = self.weight("guide.slopes", (1, 1, 1, 3, 16), 0.5)
            curves = (slopes * F.relu(pixels[..., None] - self.state["guide.thresholds"].double())).sum(-1)
            return (curves.sum(-1)[:, None] / 3 + self.weight("guide.bias", (), 0.3)).clamp(0, 1)
        features = self.layer(image, "guide", 0, 16, size=1, norm=True)
        value = self.layer(features, "guide", 1, 1, size=1, norm=False, relu=False)
        return torch.tanh(value) if self.port.activation == "tanh" else torch.sigmoid(value)

    def sliced(self, grid: Any, guide: Any) -> Any:
        """(N, 12, H, W)"""
        port = self.port
        height, width = guide.shape[2:]
        if port.coordinates is None:
            return original_slice(grid, guide[:, 0])
        ends = (torch.arange(n).double() / (n - 1) * 2 - 1 for n in (height, width))
        rows, columns = torch.meshgrid(*ends, indexing="ij")
        at = {"y": rows.expand(len(guide), -1, -1), "x": columns.expand(len(guide), -1, -1)}
        at["z"] = guide[:, 0] * 2 - 1 if port.signed else guide[:, 0]
        places = torch.stack([at[name] for name in port.coordinates], -1)[:, None]
        rule: Any = {"padding_mode": port.padding_mode, "align_corners": port.align_corners}
        return F.grid_sample(grid, places, **rule)[:, :, 0]

    def __call__(self, low: Any, image: Any) -> Any:
        sliced = self.sliced(self.grid(low), self.guide(image))
        if self.port.unroll == "z entry":  # nine of the matrix, then the offsets
            matrix, offset = sliced[:, :9].unflatten(1, (3, 3)), sliced[:, 9:]
        else:
            matrix, offset = sliced.unflatten(1, (3, 4)).split((3, 1), 2)
            offset = offset[:, :, 0]
        return (matrix * image[:, None]).sum(2) + offset


def write_checkpoint(file: Path) -> None:
    """A checkpoint as somebody might have it, of the port as it is now."""
    port = PORTS["creotiv/hdrnet-pytorch, 2022"]
    plain = Plain(port)
    plain(torch.rand(1, 3, port.net, port.net).double(), torch.rand(1, 3, 8, 8).double())
    torch.save(plain.state, file)


def original_slice(grid: Any, guide: Any) -> Any:
    """google/hdrnet's: trilinear at pixel centres, with |t| in depth as √(t² + 1e-8)."""
    depth, rows, columns = grid.shape[2:]
    height, width = guide.shape[1:]
    at = ((torch.arange(height) + 0.5) * rows / height, (torch.arange(width) + 0.5) * columns / width, guide * depth)
    cells = [(torch.floor(p - 0.5)).long() for p in at]
    total = 0.0
    for di, dj, dk in np.ndindex(2, 2, 2):
        i, j, k = cells[0] + di, cells[1] + dj, cells[2] + dk
        near = (1 - torch.sqrt((k + 0.5 - at[2]) ** 2 + 1e-8)).clamp(0)
        share = ((1 - (i + 0.5 - at[0]).abs())[:, None] * (1 - (j + 0.5 - at[1]).abs())) * near
        i, j, k = i.clip(0, rows - 1)[:, None], j.clip(0, columns - 1)[None], k.clip(0, depth - 1)
        here = torch.stack([grid[n][:, k[n], i, j] for n in range(len(grid))])
        total = total + share[:, None] * here
    return total


#: Fields of configurations, each in one of them.
RULES: list[dict[str, Any]] = [
    {"padding": "symmetric", "global_convolutions": 1, "guide": "nn", "guide_norm": False, "xy": "corners"},
    {"padding_mode": "zeros", "grid_axes": "xyz", "guide_range": "-1..1", "reduce": "nearest", "xy": "corners"},
    {"align_corners": True, "guide_range": "-1..1", "grid_axes": "yzx", "global_convolutions": 0},
    {"net_input": (24, 40), "spatial_bin": (6, 10), "padding": "symmetric", "scales": 3},
]


@pytest.fixture(scope="module", params=PORTS.values(), ids=list(PORTS))
def made(request: Any) -> tuple[Port, Any, Any, Any, dict[str, Any]]:
    """A port, an input of the network, an image, what the port makes of these, and its weights."""
    port, plain = request.param, Plain(request.param)
    rng = torch.Generator().manual_seed(1)
    low = torch.rand((1, 3, port.net, port.net), generator=rng)
    image = torch.rand((1, 3, 33, 46), generator=rng)
    want = plain(low.double(), image.double())[0].permute(1, 2, 0).numpy()
    return port, low[0].permute(1, 2, 0).numpy(), image[0].permute(1, 2, 0).numpy(), want, plain.state


def bound(port: Port, want: Any) -> float:
    """The original's smoothing in depth is not done here; all else is rounding."""
    return float((1e-4 if port.coordinates is None else 1e-5) * np.abs(want).max())


def test_a_port_is_reproduced(made: Any, tmp_path: Path) -> None:
    port, low, image, want, state = made
    config, weights = from_pytorch(state, **port.said)
    assert (config.net_input, config.spatial_bin, config.luma_bins) == (port.net, port.cells, port.depth)
    assert config.channel_multiplier == port.multiplier
    write_model(tmp_path / "model.safetensors", config, weights)
    predictor = Predictor.load(tmp_path / "model.safetensors")
    assert np.abs(predictor.render(predictor.grid(low), image) - want).max() <= bound(port, want)


def test_a_port_is_trained_on(made: Any, tmp_path: Path) -> None:
    """In PyTorch it is the same network, which has gradients everywhere, and is saved."""
    from bilateral_ops.hdrnet import HDRNet

    port, low, image, want, state = made
    write_model(tmp_path / "model.safetensors", *from_pytorch(state, **port.said))
    model = HDRNet.load(tmp_path / "model.safetensors")
    out = model.render(model.coefficients(torch.from_numpy(low)[None]), torch.from_numpy(image)[None])
    assert np.abs(out[0].detach().numpy() - want).max() <= bound(port, want)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert np.array_equal(model.freeze().grid(low), Predictor.load(tmp_path / "model.safetensors").grid(low))


def test_a_port_in_onnx(made: Any, tmp_path: Path) -> None:
    """The network as PyTorch exports it, and behind it what the configuration says of sampling."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from bilateral_ops.export import onnx
    from bilateral_ops.hdrnet import HDRNet

    port, low, image, want, state = made
    write_model(tmp_path / "model.safetensors", *from_pytorch(state, **port.said))
    network = HDRNet.load(tmp_path / "model.safetensors").eval()
    given = {"low": low[None], "image": image[None]}
    names = {"input_names": ["low"], "output_names": ["coefficients"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's age
        low_tensor = torch.from_numpy(given["low"])
        torch.onnx.export(
            network.coefficients, (low_tensor,), str(tmp_path / "network.onnx"), opset_version=20, dynamo=False, **names
        )
    config, guide = network.config, network.freeze()._model.guides[0]["float32"]
    model = onnx.behind(tmp_path / "network.onnx", onnx.enhance(config.grid_shape, guide, **config.sampling))
    (got,) = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)
    assert np.abs(got[0] - want).max() <= bound(port, want)


@pytest.mark.parametrize("form", ["GridSample", "Gather"])
@pytest.mark.parametrize("options", RULES, ids=str)
def test_a_configuration_of_ports_in_onnx(options: dict[str, Any], form: Any) -> None:
    """The whole pipeline as this package writes it."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from bilateral_ops.export import onnx

    config = Config(**{"net_input": 48, "spatial_bin": 12, "luma_bins": 4, **options})
    predictor, image = Predictor(config, weights_of(config)), np.random.default_rng(3).random((61, 100, 3), np.float32)
    model = onnx.hdrnet(predictor, form=form).SerializeToString()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (got,), want = session.run(None, {"image": image[None]}), predictor(image)
    assert np.abs(got[0] - want).max() <= 1e-5 * np.abs(want).max()


#: What is done to the weights of creotiv/hdrnet-pytorch, or said of them, and the sentence.
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another network": (
        lambda state: {"p_net.conv.weight": np.zeros((3, 3, 1, 1))},
        {},
        "state_dict must have the names of a port that is known, coeffs.splat_features.…, coefficients.splat… or "
        "splat_conv.…, got 'p_net.conv.weight'.",
    ),
    "nothing": (lambda state: {}, {}, "state_dict must have the names of a port that is known, .*, got None."),
    "another name": (
        lambda state: {**state, "coeffs.more.weight": np.zeros(3)},
        {},
        "state_dict must have the port's weights alone, but has 'coeffs.more.weight'.",
    ),
    "a layer less": (
        lambda state: {k: v for k, v in state.items() if "global_features_fc.2" not in k},
        {},
        "state_dict must have 3 modules for global_connected, but has 2.",
    ),
    "no weight": (
        lambda state: {k: v for k, v in state.items() if k != "coeffs.conv_out.conv.weight"},
        {},
        "state_dict must have all weights of the port's network, but coeffs.conv_out has none.",
    ),
    "other channels": (
        lambda state: {
            **state,
            "coeffs.conv_out.conv.weight": np.zeros((95, 64, 1, 1)),
            "coeffs.conv_out.conv.bias": np.zeros(95),
        },
        {},
        "state_dict must have shapes of one network, but has 8 channels first, 95 of the prediction, and 1024 numbers "
        "of 64 channels for the fully connected layers.",
    ),
    "another shape": (
        lambda state: {**state, "coeffs.splat_features.1.conv.weight": np.zeros((16, 8, 5, 5))},
        {},
        r"coefficients.splat.1.weight must have shape \(16, 8, 3, 3\), got \(16, 8, 5, 5\).",
    ),
    "norms of other channels": (
        lambda state: {**state, "coeffs.local_features.0.bn.bias": np.zeros(63)},
        {},
        r"state_dict must have shapes of a layer's for coeffs.local_features.0, but has \(64, 16, .*63.*",
    ),
    "a guide of other channels": (
        lambda state: {**state, "guide.conv2.conv.weight": np.zeros((1, 15, 1, 1))},
        {},
        r"state_dict must have a guide of 1 × 1 convolutions from 3 channels to 1, but has \(16, 3, 1, 1\) and .*",
    ),
    "NaN": (
        lambda state: {**state, "guide.conv2.conv.bias": np.array([np.nan])},
        {},
        "guides.0.b2 must be finite, but has NaN or infinity.",
    ),
    "a bias too many": (
        lambda state: {**state, "coeffs.local_features.1.conv.bias": np.ones(64)},
        {},
        "state_dict must have no bias in the last local convolution, but has one.",
    ),
    "layout": (dict, {"layout": "z_in_out"}, "layout must be one of in_out_z, .*, got 'z_in_out'."),
    "activation": (dict, {"activation": "relu"}, "activation must be sigmoid or tanh, got 'relu'."),
    "convention": (dict, {"luma_bins": 4}, "conventions must be of reduce, .*, got 'luma_bins'."),
}


@pytest.fixture(scope="module")
def creotivs() -> dict[str, Any]:
    plain = Plain(PORTS["creotiv/hdrnet-pytorch, 2022"])
    plain(torch.zeros((1, 3, 64, 64)).double(), torch.zeros((1, 3, 2, 2)).double())
    return plain.state


@pytest.mark.parametrize("name", REFUSED)
def test_other_weights_are_refused(name: str, creotivs: dict[str, Any]) -> None:
    change, said, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=f"^from_pytorch: {sentence}$"):
        from_pytorch(change(creotivs), **said)


def test_curves_have_no_activation() -> None:
    plain = Plain(PORTS["gejinchen/HDRnet-PyTorch"])
    plain(torch.zeros((1, 3, 256, 256)).double(), torch.zeros((1, 3, 2, 2)).double())
    with pytest.raises(
        ValueError, match=r"^from_pytorch: activation must be None where the guide is of curves, got 't"
    ):
        from_pytorch(plain.state, activation="tanh")
    with pytest.raises(
        ValueError, match=r"^from_pytorch: state_dict must have guide.M of shape \(3, 3\), got \(3, 4\)"
    ):
        from_pytorch({**plain.state, "guide.M": np.zeros((3, 4))})
    del plain.state["guide.slopes"]
    with pytest.raises(
        ValueError, match=r"^from_pytorch: state_dict must have all of guide.M, .*, but some are missin"
    ):
        from_pytorch(plain.state)


def test_what_lies_beside_the_weights_is_ignored(creotivs: dict[str, Any]) -> None:
    config, weights = from_pytorch({"model_params": {"luma_bins": 8}, **creotivs})
    other, same = from_pytorch({f"module.{name}": value.numpy() for name, value in creotivs.items()})
    assert config == other == Config(net_input=64, guide="nn", guide_norm=False, padding="symmetric")
    assert all(np.array_equal(weights[name], same[name]) for name in weights)
