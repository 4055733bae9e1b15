"""A vector-Jacobian product compared with central differences: coordinate by coordinate, and along directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .call import Call
from .report import GradcheckReport, GradcheckRow

#: Coordinates compared one by one, per argument; larger arguments are sampled. The directions cover all of them.
MAX_COORDINATES = 200
#: Random directions per argument.
DIRECTIONS = 3

#: One-sided differences of a smooth function halve their disagreement with the step; at a kink it stays.
_KINK_RATIO = 0.7


class Precision:
    """What differences of a dtype can tell: the machine's epsilon, the steps, and how far a gradient may be off.

    The error of a central difference is what rounding does to f, ε/h, and what is left of the series, h²: as shares of
    f and of its third derivative. 16 is for f that adds up many terms, and for a third derivative above the first.
    """

    def __init__(self, dtype: str, step: float | None = None, rtol: float | None = None) -> None:
        self.eps = float(np.finfo(dtype).eps)
        #: The base step: the power of two near ε^(1/3), so that x + h is mostly exact.
        self.step = step or 2.0 ** round(math.log2(self.eps) / 3)
        self.rtol = rtol or max(1e-6, 16 * (self.eps / self.step + self.step**2))
        #: Other steps: tried where the base step has not settled (shorter) or drowns in rounding (longer).
        self.shorter = tuple(2.0 ** round(math.log2(self.step) * power) for power in (1.3, 1.6, 1.9))
        self.longer = tuple(2.0 ** round(math.log2(self.step) * power) for power in (0.7, 0.4))


@dataclass
class _Slope:
    """Central differences of every element of the result along one line through the point."""

    derivative: Any  # at half the step
    change: Any  # |derivative at the step − at half the step|: how far it has settled
    noise: Any  # what rounding in f may do to the derivative
    jump: Any  # |right slope − left slope| where it looks like a kink, else 0
    moved: Any  # the elements that change along the line
    finite: bool

    def error(self, u: Any) -> float:
        """An estimate of the error of ⟨u, derivative⟩."""
        return abs(float(u @ self.change)) + self.rounding(u)

    def rounding(self, u: Any) -> float:
        return 4 * math.sqrt(float(np.sum((u * self.noise) ** 2)))

    def steady(self, rtol: float) -> Any:
        """The elements of the result whose slope can be relied on."""
        with np.errstate(all="ignore"):
            strong = np.abs(self.derivative).max(initial=0.0)
            settled = self.change <= 0.05 * rtol * strong + 4 * self.noise
        return (self.jump == 0) & settled & np.isfinite(self.derivative)


class _Line:
    """``f`` along ``point + t·direction``, with the slope at t = 0 measured at several steps.

    The direction is an array like the argument, or ``length`` along one coordinate, ``index``.
    """

    def __init__(self, at: Comparison, key: Any, direction: Any = None, index: int = -1, length: float = 1.0) -> None:
        self.comparison, self.key, self.direction, self.index, self.length = at, key, direction, index, length
        self.best = self.slope(at.precision.step)

    def at(self, t: float) -> Any:
        call = self.comparison.call
        moved = call.point[self.key].copy()
        if self.direction is None:
            moved.reshape(-1)[self.index] += t * self.length
        else:
            moved += t * self.direction
        with np.errstate(all="ignore"):  # a step past the edge of f's domain is ours, and seen by its NaN
            return call({**call.point, self.key: moved})

    def slope(self, h: float) -> _Slope:
        f0, level, precision = self.comparison.f0, self.comparison.level, self.comparison.precision
        right, left, near_right, near_left = self.at(h), self.at(-h), self.at(h / 2), self.at(-h / 2)
        finite = all(bool(np.isfinite(values).all()) for values in (right, left, near_right, near_left))
        with np.errstate(all="ignore"):
            wide = (right - left) / (2 * h)
            derivative = (near_right - near_left) / h
            wide_jump = np.abs((right - f0) - (f0 - left)) / h
            jump = np.abs((near_right - f0) - (f0 - near_left)) / (h / 2)
            moved = (right != f0) | (left != f0) | (near_right != f0) | (near_left != f0)
            # Rounding of f is that of the terms it adds up: an element may be far smaller than they are. That of x + h
            # is a share of x, which is no longer than the line's unit, and moves f by as much times the slope.
            noise = np.where(moved, precision.eps * (np.maximum(np.abs(f0), level) + np.abs(derivative)) / h, 0.0)
            strong = np.maximum(np.abs(derivative), jump).max(initial=0.0)
            kink = (jump > _KINK_RATIO * wide_jump) & (jump > 32 * noise) & (jump > 0.02 * precision.rtol * strong)
        return _Slope(derivative, np.abs(derivative - wide), noise, np.where(kink, jump, 0.0), moved, finite)

    @property
    def derivative(self) -> float:
        """Along the coordinate, of ⟨u, f⟩."""
        return float(self.comparison.u @ self.best.derivative) / self.length

    def settle(self, tolerance: float) -> bool:
        """Choose the best step for a coordinate; true where it is a kink at every step."""
        u, precision = self.comparison.u, self.comparison.precision

        def broken(slope: _Slope) -> bool:
            return float(np.abs(u) @ slope.jump) > 0.25 * tolerance

        for step in precision.longer:
            if not self.best.moved.any() and (longer := self.slope(step)).finite:  # a change that rounding hides
                self.best = longer
        if broken(self.best):
            # A kink within the step but not at the point is gone with a shorter one, unless that drowns it in rounding.
            shorter = self.slope(precision.shorter[0])
            hidden = shorter.rounding(u) >= 0.1 * float(np.abs(u) @ self.best.jump)
            if not shorter.finite or broken(shorter) or hidden:
                return True
            self.best = shorter
        candidates: tuple[float, ...] = ()
        if abs(float(u @ self.best.change)) > 0.1 * tolerance + self.best.rounding(u):
            candidates = precision.shorter
        elif self.best.rounding(u) > 0.5 * tolerance:
            candidates = precision.longer
        for step in candidates:
            other = self.slope(step)
            if other.finite and not broken(other) and other.error(u) < self.best.error(u):
                self.best = other
            if self.best.error(u) <= 0.1 * tolerance:
                break
        return False


class Comparison:
    """Of what ``pullback`` says of a call's arguments, u → {key: Jᵀu}, with differences of the call itself."""

    def __init__(
        self,
        call: Call,
        pullback: Callable[[Any], dict[Any, Any]],
        precision: Precision,
        rng: np.random.Generator,
    ) -> None:
        self.call, self.pullback, self.precision, self.rng = call, pullback, precision, rng
        self.rtol = precision.rtol
        self.f0 = call.first()
        self.u: Any = None
        #: The size of the terms that an element of the result is made of: that of the result it belongs to.
        self.level: Any = None

    def report(self, wanted: list[Any]) -> GradcheckReport:
        call, f0 = self.call, self.f0
        reason = next((f"{call.names[k]} is not finite" for k, x in call.point.items() if not np.isfinite(x).all()), "")
        if not reason and not np.isfinite(f0).all():
            reason = "f is not finite"
        if not reason and not np.array_equal(f0, call(call.point)):
            reason = "f gives another result when called again"
        if reason:
            return GradcheckReport(tuple(self.empty_row(key, f"FAIL: {reason}") for key in wanted), self.rtol)
        self.level = np.concatenate([np.full(p.size, _rms(p)) for p in call.parts(f0)] or [f0])
        self.u = self.signs(f0.shape)
        gradients = self.pullback(self.u)
        return GradcheckReport(tuple(self.row(key, call.gradient(gradients, key)) for key in wanted), self.rtol)

    def empty_row(self, key: Any, verdict: str) -> GradcheckRow:
        """Of an argument of which nothing is compared."""
        size = self.call.point[key].size
        return GradcheckRow(self.call.names[key], size, 0, 0, math.nan, math.nan, verdict.startswith("ok"), verdict)

    def signs(self, shape: Any) -> Any:
        """Random numbers of either sign, none near zero: no element of the gradient goes unweighed."""
        found = self.rng.uniform(0.5, 1.5, shape) * self.rng.choice((-1.0, 1.0), shape)
        return np.asarray(found, self.call.dtype).astype(float)  # as a VJP is given them

    def row(self, key: Any, gradient: Any) -> GradcheckRow:
        x, u, rtol = self.call.point[key], self.u, self.rtol
        if x.size == 0:
            return self.empty_row(key, "ok (empty)")
        if not np.isfinite(gradient).all():
            where = _place(int(np.flatnonzero(~np.isfinite(gradient))[0]), x.shape)
            return self.empty_row(key, f"FAIL: the gradient is not finite{where}")

        flat, lengths = gradient.ravel(), _lengths(x)
        indices = np.arange(x.size)
        if x.size > MAX_COORDINATES:
            indices = np.sort(self.rng.choice(x.size, MAX_COORDINATES, replace=False))
        lines = []
        for index in indices.tolist():
            line = _Line(self, key, index=index, length=float(lengths.flat[index]))
            if not line.best.finite and x.flat[index] != 0.0:
                # Near the edge of f's domain: a step in proportion to the element itself stays inside.
                line = _Line(self, key, index=index, length=abs(float(x.flat[index])))
            if not line.best.finite:
                return self.empty_row(key, f"FAIL: f is not finite a step away{_place(index, x.shape)}")
            lines.append(line)

        largest = float(np.abs(flat).max(initial=0.0))
        scale = max([largest, *(abs(line.derivative) for line in lines if not line.best.jump.any())])
        compared = [line for line in lines if not line.settle(rtol * scale * line.length)]
        scale = max([largest, *(abs(line.derivative) for line in compared)])
        if compared and self.vanishes(compared, largest, scale):
            counts = x.size, len(compared), len(lines) - len(compared)
            return GradcheckRow(self.call.names[key], *counts, math.nan, math.nan, True, "ok (zero within rounding)")

        error, limit, worst, wrong = math.nan, 0.0, None, False
        for line in compared:
            off = abs(flat[line.index] - line.derivative)
            rounding = line.best.rounding(u) / line.length
            limit = max(limit, rounding)
            share = off / scale if off else 0.0
            bad = off > rtol * scale + rounding
            if worst is None or (bad, share) > (wrong, error):
                error, worst, wrong = share, line, bad

        smooth = np.zeros(x.shape)
        smooth.reshape(-1)[[line.index for line in compared]] = 1.0
        dots = [self.dot(key, lengths * self.signs(x.shape), self.signs(u.shape), smooth) for _ in range(DIRECTIONS)]
        found = [dot for dot in dots if dot is not None]
        dot_error = max((share for share, _, _ in found), default=math.nan)
        if wrong and worst is not None:
            place, given = _place(worst.index, x.shape), flat[worst.index]
            verdict = f"FAIL{place}: {given:.6g}, differences give {worst.derivative:.6g}"
        elif any(not finite for _, _, finite in found):
            verdict = "FAIL: the gradient of a random cotangent is not finite"
        elif any(bad for _, bad, _ in found):
            verdict = "FAIL along a random direction"
        elif not compared and not found:
            verdict = "FAIL: nothing to compare, every coordinate is a kink"
        elif not compared:
            verdict = "ok (by directions: every coordinate is a kink)"
        elif limit > rtol * scale:
            verdict = "ok (zero within rounding)" if limit >= scale else f"ok (rounding in f hides {limit / scale:.0e})"
        else:
            verdict = "ok"
        counts = x.size, len(compared), len(lines) - len(compared)
        return GradcheckRow(self.call.names[key], *counts, error, dot_error, verdict.startswith("ok"), verdict)

    def vanishes(self, lines: list[_Line], largest: float, scale: float) -> bool:
        """Whether an argument's whole gradient is what rounding in f makes of zero, with the longest step too."""
        size = 16 * self.precision.eps * float(np.linalg.norm(self.u * np.maximum(np.abs(self.f0), self.level)))
        shortest = min(line.length for line in lines)
        if scale > size / (self.precision.step * shortest):
            return False
        step = self.precision.longer[-1]
        slopes = [line.slope(step) for line in lines]
        if not all(slope.finite for slope in slopes):
            return False
        far = [abs(float(self.u @ slope.derivative)) / line.length for slope, line in zip(slopes, lines)]
        return max([largest, *far]) <= size / (step * shortest)

    def dot(self, key: Any, v: Any, u: Any, smooth: Any) -> tuple[float, bool, bool] | None:
        """⟨Jv, u⟩ against ⟨v, Jᵀu⟩: (error as a share, too large, finite).

        None where every element that moves sits on a kink. ``smooth`` is 1 at coordinates known to be at no kink.
        """
        found = self.along(key, v, u)
        if found is None and smooth.any() and not smooth.all():
            # A single number made of many terms is at a kink when any term is: move only what is smooth.
            found = self.along(key, v * smooth, u)
        return found

    def along(self, key: Any, v: Any, u: Any) -> tuple[float, bool, bool] | None:
        line = _Line(self, key, v)
        slope = line.best
        steady = slope.steady(self.rtol)
        steps: tuple[float, ...] = ()
        if not steady.all():
            steps = self.precision.shorter
        elif slope.rounding(u) > 0.5 * self.rtol * float(np.linalg.norm(u * slope.derivative)):
            steps = self.precision.longer
        for step in steps:
            other = line.slope(step)
            better = other.steady(self.rtol)
            if (better.sum(), -other.error(better * u)) > (steady.sum(), -slope.error(steady * u)):
                slope, steady = other, better
        if slope.moved.any() and not (slope.moved & steady).any():
            return None
        u = np.where(steady, u, 0.0)
        gradient = self.call.gradient(self.pullback(u), key)
        if not np.isfinite(gradient).all():
            return math.nan, True, False
        terms = v * gradient
        left = float(u @ np.where(steady, slope.derivative, 0.0))
        right = float(np.sum(terms))
        size = max(math.sqrt(float(np.sum(terms**2))), abs(left))
        off = abs(left - right)
        return (off / size if off else 0.0), off > self.rtol * size + slope.rounding(u), True


def _rms(values: Any) -> float:
    return math.sqrt(float(np.mean(np.square(values)))) if values.size else 0.0


def _lengths(x: Any) -> Any:
    """The unit of a step, for each element: its own size, or the argument's where that is larger and below 1."""
    largest = float(np.abs(x).max(initial=0.0))
    return np.maximum(np.abs(x), min(largest, 1.0) or 1.0)


def _place(index: int, shape: tuple[int, ...]) -> str:
    """`` at [i, j]``; nothing for a scalar."""
    where = np.unravel_index(index, shape) if shape else ()
    return f" at [{', '.join(str(int(k)) for k in where)}]" if shape else ""
