"""Remedies that errors suggest, where the arguments show what was meant: a table of functions, one per mistake.

They run only when a call is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .declaration import fixed_size


class Refused(NamedTuple):
    """A rejected argument, the axes that it should have, their sizes by other arguments, and all arguments."""

    name: str
    value: Any
    axes: Sequence[str] = ()
    sizes: Mapping[str, Any] = {}
    values: Mapping[str, Any] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.value)

    @property
    def channels(self) -> int:
        """The image's channels; the image may not have been checked yet."""
        shape = _shape(self.values.get("image"))
        return shape[-1] if len(shape) > 2 else 0


def _shape(value: Any) -> tuple[int, ...]:
    """The shape; empty if a graph leaves a size open or symbolic."""
    try:
        shape = tuple(getattr(value, "shape", ()))
    except ValueError:  # TensorFlow's, of unknown rank
        return ()
    return shape if all(isinstance(size, int) for size in shape) else ()


Hint = Callable[[Refused], str]


def hint(mistakes: Sequence[Hint], refused: Refused) -> str:
    """The first remedy that applies, as the end of a sentence; else empty."""
    return next((f"; {text}" for text in (mistake(refused) for mistake in mistakes) if text), "")


# --- Arrays' code, in their framework's words


def _moved(name: str, array: Any, source: Any, target: Any) -> str:
    if hasattr(array, "movedim"):
        return f"{name}.movedim({source}, {target})"
    modules = {"cupy": "cp", "jax": "jnp", "jaxlib": "jnp", "tensorflow": "tf.experimental.numpy"}
    return f"{modules.get(_root(array), 'np')}.moveaxis({name}, {source}, {target})"


def _as_float(name: str, array: Any) -> str:
    if hasattr(array, "movedim"):
        return f"{name}.float()"
    return f"tf.cast({name}, tf.float32)" if _root(array) == "tensorflow" else f"{name}.astype(np.float32)"


def _root(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


# --- Objects that are no arrays

_OF_PACKAGES = {
    "PIL": "pass np.asarray({})",
    "keras": "call in a layer, as keras.layers.Lambda",
    "dask": "call through dask.array.map_blocks, as examples/dask_tiles.py does",
    "xarray": "pass {}.values, or call through xarray.apply_ufunc",
}


def _a_list(refused: Refused) -> str:
    if not isinstance(refused.value, (list, tuple)) or refused.name.startswith("out"):
        return ""
    return f"pass np.asarray({refused.name}, np.{'int64' if refused.name == 'index' else 'float32'})"


def _anothers_image(refused: Refused) -> str:
    roots = (base.__module__.partition(".")[0] for base in type(refused.value).__mro__)
    return next((_OF_PACKAGES[root] for root in roots if root in _OF_PACKAGES), "").format(refused.name)


def _exchangeable(refused: Refused) -> str:
    """Where an array is not taken so by itself, as for ``out``."""
    exports = hasattr(refused.value, "__dlpack__") and not isinstance(refused.value, type)
    return f"pass np.from_dlpack({refused.name})" if exports else ""


#: Of a type that no framework has.
TYPES: tuple[Hint, ...] = (_a_list, _anothers_image, _exchangeable)


# --- Numbers of another kind


def _integer_guide(refused: Refused) -> str:
    kind = getattr(refused.value.dtype, "name", str(refused.value.dtype).rpartition(".")[2])
    if refused.name != "guide" or not kind.startswith(("int", "uint")):
        return ""
    scaled = {"uint8": " / 255", "uint16": " / 65535"}.get(kind, ", scaled to [0, 1]")
    return f"pass {_as_float('guide', refused.value)}{scaled}"


DTYPES: tuple[Hint, ...] = (_integer_guide,)


# --- Axes in another order, too many or too few


def _channels_first(refused: Refused) -> str:
    """An image, (…, C, H, W)."""
    axes, shape = tuple(refused.axes), refused.shape
    if axes[-3:-1] != ("H", "W") or len(shape) != len(axes):
        return ""
    told = False
    for axis, size in zip(axes[-3:], (*shape[-2:], shape[-3])):
        fixed = fixed_size(axis)
        known = int(fixed) if fixed else refused.sizes.get(axis)
        if known is not None and known != size:
            return ""
        told |= known is not None
    return f"pass {_moved(refused.name, refused.value, -3, -1)}" if told else ""


def _channels_of_the_image_first(refused: Refused) -> str:
    """The same, found by an argument with as many axes of channels."""
    image = refused.values.get("image")
    shape = _shape(image)
    if refused.name == "image" or len(shape) < 3 or not shape[-3] <= 4 < min(shape[-2:]):
        return ""
    at_fault = any(axis == "Ci" and size == shape[-3] for axis, size in zip(refused.axes, refused.shape))
    return f"pass {_moved('image', image, -3, -1)} for image" if at_fault else ""


def _no_channels(refused: Refused) -> str:
    """A grey image, (H, W)."""
    shape = refused.shape
    return "pass image[..., None]" if refused.name == "image" and len(shape) == 2 and min(shape) > 4 else ""


def _guide_with_channels(refused: Refused) -> str:
    """(…, H, W, 1) or (N, 1, H, W)."""
    guide, image = refused.values.get("guide"), refused.values.get("image")
    shape = _shape(guide)
    if len(shape) == 4 and shape[1] == 1:
        return "pass guide[:, 0] for guide"
    if len(shape) not in (3, 4) or shape[-1] != 1:
        return ""
    of_image = image is not None and _shape(image)[:-1] == shape[:-1]
    return "pass guide[..., 0] for guide" if of_image or len(shape) == 4 else ""


def _one_image_in_a_batch(refused: Refused) -> str:
    """A guide (1, H, W) beside a grid, or an image, without a batch axis."""
    guide, axes = _shape(refused.values.get("guide")), tuple(refused.axes)
    alone = axes[:1] == ("N",) and "*C" not in axes and len(refused.shape) == len(axes) - 1
    return "pass guide[0] for guide" if alone and len(guide) == 3 and guide[0] == 1 else ""


def _flat_matrices(refused: Refused) -> str:
    """A grid of channels in place of matrices, (…, C·R), or (…, C·R, Gd, Gh, Gw)."""
    shape, channels = refused.shape, refused.channels
    if refused.axes[-1:] != ("Ci[+1]",) or len(shape) != len(refused.axes) - 1:
        return ""
    for columns in (channels + 1, channels):
        made = f"with its last axis made {channels} × {columns}, by reshape"
        if shape[-1] == channels * columns:
            return f"pass {refused.name} {made}"
        if len(shape) > 3 and shape[-4] == channels * columns and "Gd" in refused.axes:
            return f"pass {_moved(refused.name, refused.value, (-4, -3), (-1, -2))} {made}"
    return ""


def _transposed_matrices(refused: Refused) -> str:
    """Matrices (Ci + 1, Co): four rows and three columns are a mistake where something then has three channels."""
    name = "grid" if "grid" in refused.values else "coefficients"
    shape = _shape(refused.values.get(name))
    if not refused.channels or len(shape) < 4 or shape[-2] != refused.channels + 1:
        return ""
    itself = refused.name == name and len(shape) == len(refused.axes)
    given = refused.name in ("grad", "out") and refused.shape[-1:] == shape[-1:]
    return f"pass {name}.swapaxes(-1, -2) for {name}" if itself or given else ""


SHAPES: tuple[Hint, ...] = (
    _guide_with_channels,
    _channels_first,
    _channels_of_the_image_first,
    _no_channels,
    _flat_matrices,
    _one_image_in_a_batch,
    _transposed_matrices,
)
