"""Bugs, planted one at a time in a copy of the kernels, and the test that must see each.

`nox -s mutants` plants them all, `nox -s mutants -- TEXT …` those that have one of these texts in their names.

What the bug is in is compiled once more, for one instruction set, and linked with what was compiled without it; nothing
is optimised.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scratch import ROOT, Package, copied, replaced, run


@dataclass(frozen=True)
class Mutant:
    file: str  # in csrc/, where the bug is planted
    old: str  # what stands there once
    new: str
    test: str  # in tests/; what sees it. {} is the instruction set
    compiled: str = "cpu/isa_scalar.cpp"  # what is compiled with the bug

    @property
    def isa(self) -> str:
        return Path(self.compiled).stem.partition("isa_")[2]

    @property
    def caught_by(self) -> str:
        return "tests/" + self.test.format(self.isa)


def agreement(which: str, subject: str, case: str) -> str:
    return f"test_agreement.py::test_{which}[{{}}-{subject}: {case}]"


AVX2, AVX512 = "cpu/isa_avx2.cpp", "cpu/isa_avx512.cpp"
BY_GRID = "cpu/by_grid.cpp"

MUTANTS = {
    # --- Positions
    "pixel centres on the wrong side": Mutant(
        "formulas.h",
        "return {step, first - 2.0 * n * axis.shift,",
        "return {step, 2.0 * n * axis.shift - first,",
        agreement("forward", "slice", "plain"),
    ),
    "corners of one pixel too many": Mutant(
        "formulas.h",
        "pixel_corners ? max_of<int64_t>(pixels - 1, 1) : pixels",
        "pixels",
        agreement("forward", "slice", "corners"),
    ),
    "pixel centres always where cells are": Mutant(
        "formulas.h",
        "first = pixel_corners ? 0.0 : axis.scale",
        "first = align_corners ? 0.0 : axis.scale",
        agreement("forward", "slice", "centers"),
    ),
    "pixel corners always where cells are": Mutant(
        "cpu/geometry.inl",
        "make_pixel_axis(g.Gw, at.full_width, at.align_corners, at.pixel_corners)",
        "make_pixel_axis(g.Gw, at.full_width, at.pixel_corners, at.pixel_corners)",
        agreement("forward", "slice", "pixel corners"),
    ),
    "a window without its first row": Mutant(
        "cpu/positions.inl",
        "return locate_pixel(y + at.top, g.y);",
        "return locate_pixel(y, g.y);",
        agreement("forward", "slice", "window"),
    ),
    "a window without its first column": Mutant(
        "cpu/positions.inl",
        "locate_pixel(x + i + at.left, g.x)",
        "locate_pixel(x + i, g.x)",
        agreement("forward", "slice", "window"),
    ),
    "a slope on the first knot": Mutant(
        "cpu/simd/generic.h",
        "a.v[l] > T(0) && a.v[l] < limit.v[l] ? x.v[l] : T(0))",
        "a.v[l] >= T(0) && a.v[l] < limit.v[l] ? x.v[l] : T(0))",
        "test_gradients.py::test_on_a_knot_the_slope_is_that_of_the_cell_above_and_none_where_clamped"
        "[{}-slice-guide-float32-centres]",
    ),
    "a knot in the cell below": Mutant(
        "cpu/simd/generic.h",
        "BO_LANEWISE(Indices, to_indices, (const Vec<T>& a), static_cast<int32_t>(a.v[l]))",
        "BO_LANEWISE(Indices, to_indices, (const Vec<T>& a), a.v[l] > T(0) && a.v[l] == static_cast<int32_t>(a.v[l])\n"
        "    ? static_cast<int32_t>(a.v[l]) - 1 : static_cast<int32_t>(a.v[l]))",
        "test_gradients.py::test_on_a_knot_the_slope_is_that_of_the_cell_above_and_none_where_clamped"
        "[{}-slice-guide-float32-centres]",
    ),
    "NaN on the first knot": Mutant(
        "cpu/positions.inl",
        "t = select_equal(u, u, select_inside(p, last_, fused_mul_add(u, scale_, below_ - to_values(k))), u);",
        "t = select_inside(p, last_, fused_mul_add(u, scale_, below_ - to_values(k)));",
        "test_special_values.py::test_a_bad_pixel_spoils_no_other[{}-float32-slice-guide-nan]",
    ),
    "a raster of one row": Mutant(
        "cpu/geometry.inl",
        "W, x, y[row % H]);",
        "W, x, y[0]);",
        "test_agreement.py::test_a_mesh_of_the_pixels_own_coordinates_changes_no_bit[{}-slice]",
    ),
    "coordinates that differ in y only": Mutant(
        "cpu/geometry.inl",
        "others += (xy[2 * i] != x[i]) | (xy[2 * i + 1] != y);",
        "others += xy[2 * i] != x[i];",
        "test_agreement.py::test_a_mesh_but_for_one_pixel[{}-slice-y]",
    ),
    # --- Sampling
    "a border clamp one column early": Mutant(
        "cpu/sampler.inl",
        "*right = rows_.column(min_of(kx + 1, g_.Gw - 1));",
        "*right = rows_.column(min_of(kx + 1, max_of<int64_t>(g_.Gw - 2, 0)));",
        agreement("forward", "slice", "plain"),
    ),
    "a border clamp one depth early": Mutant(
        "cpu/sampler.inl",
        "(kz < top ? C : 0)",
        "(kz + 1 < top ? C : 0)",
        agreement("forward", "slice", "plain"),
    ),
    "two grid rows in one copy": Mutant(
        "cpu/sampler.inl",
        "RowCopy& row = copies_[y & 1];",
        "RowCopy& row = copies_[0];",
        agreement("forward", "slice", "plain"),
    ),
    "a row grid of the image before": Mutant(
        "cpu/sampler.inl",
        "if (tile.n != n_ || tile.y != y_) {",
        "if (tile.y != y_) {",
        agreement("forward", "slice", "batched rows"),
    ),
    "a slope in y without x": Mutant(
        "cpu/sampler.inl",
        "lerp(lerp(step[0], step[2], tx), lerp(step[1], step[3], tx), tz)",
        "lerp(step[0], step[1], tz)",
        agreement("backward", "slice", "xy"),
    ),
    "a table's entry for the next": Mutant(
        "cpu/simd/generic.h",
        "r.v[l] = i.v[l] + 1 < D ? i.v[l] + 1 : D - 1;",
        "r.v[l] = i.v[l] + 2 < D ? i.v[l] + 2 : D - 1;",
        agreement("forward", "slice_apply", "wide"),
    ),
    "no entry above the last": Mutant(
        "cpu/simd/avx512.h",
        "{_mm512_min_epi32(_mm512_add_epi32(i.v, _mm512_set1_epi32(1)), _mm512_set1_epi32(D - 1))}",
        "{_mm512_add_epi32(i.v, _mm512_set1_epi32(1))}",
        "test_special_values.py::test_a_bad_cell_reaches_no_pixel_further_than_a_cell_away[{}-centres-nan-slice_apply]",
        AVX512,
    ),
    "tables of the grid row before": Mutant(
        "cpu/tables.inl",
        "if (n != n_ || ky != ky_) load_rows(n, ky);",
        "if (n != n_) load_rows(n, ky);",
        agreement("forward", "slice_apply", "wide"),
    ),
    "the left column twice": Mutant(
        "cpu/tables.inl",
        "for_column(min_of(kx + 1, g_.Gw - 1), ",
        "for_column(min_of(kx, g_.Gw - 1), ",
        agreement("forward", "slice_apply", "wide"),
    ),
    "no slope of the offset": Mutant(
        "cpu/tables.inl",
        "        slopes = slopes + slope_sum;\n",
        "",
        agreement("backward", "slice_apply", "wide"),
    ),
    "no last pixel of an odd span": Mutant(
        "cpu/cells.inl",
        "    if (p < end) {\n",
        "    if (p + 1 < end) {\n",
        agreement("forward", "slice_apply", "depth 17"),
    ),
    "a slope along the position": Mutant(
        "cpu/cells.inl",
        "d_guide[p] = reduce_add(slopes) * dz[p];",
        "d_guide[p] = reduce_add(slopes);",
        agreement("backward", "slice_apply", "depth 17"),
    ),
    # --- Splatting
    "the lower weight for the upper cell": Mutant(
        "cpu/splatter.inl",
        "pair[C + c] = d * tz;",
        "pair[C + c] = d * (Sum(1) - tz);",
        agreement("forward", "splat", "plain"),
    ),
    "odd pixels lost": Mutant(
        "cpu/splatter.inl",
        "store(even + i, load(even + i) + load(odd + i));",
        "store(even + i, load(even + i));",
        agreement("forward", "splat", "long"),
    ),
    "sums not cleared": Mutant(
        "cpu/splatter.inl",
        "      clear(odd, size);\n",
        "",
        agreement("forward", "splat", "long"),
    ),
    "a span in the row before": Mutant(
        "cpu/splatter.inl",
        "if (tile.y != y_ || kx != kx_) add_span();",
        "if (kx != kx_) add_span();",
        agreement("forward", "splat", "one column"),
    ),
    "a column in the grid row before": Mutant(
        "cpu/splatter.inl",
        "if (at.row_k != ky_) flush();",
        "if (at.row_k != ky_) add_span();",
        agreement("forward", "splat", "wide"),
    ),
    "a column's depths not cleared": Mutant(
        "cpu/splatter.inl",
        "      clear(first_added, first - first_added);\n",
        "",
        agreement("forward", "splat", "wide"),
    ),
    "a column's sums added twice": Mutant(
        "cpu/splatter.inl",
        "    pending_[x] = {};\n",
        "    pending_[x].pixels = 0;\n",
        agreement("forward", "splat", "long"),
    ),
    "pixels of the next span": Mutant(
        "cpu/splatter.inl",
        "add_depth(part, pixels & rest, ",
        "add_depth(part, pixels, ",
        agreement("backward", "slice_apply", "depth 2"),
        AVX2,
    ),
    "pixels 64 and on": Mutant(
        "cpu/splatter.inl",
        "add_depth(part, pixels & rest, ",
        "add_depth(begin, pixels & rest, ",
        agreement("backward", "slice_apply", "long"),
        AVX2,
    ),
    "the lower depth's sums for the upper one": Mutant(
        "cpu/splatter.inl",
        "add_half(1, upper)",
        "add_half(0, upper)",
        agreement("backward", "slice_apply", "depth 2"),
        AVX2,
    ),
    "a row's weight from the row before": Mutant(
        "cpu/splatter.inl",
        "row_weights_[8 + l] = at.row_t;",
        "row_weights_[8 + l] = ty_;",
        agreement("backward", "slice_apply", "depth 2"),
        AVX2,
    ),
    "a depth that half a vector has": Mutant(
        "cpu/simd/avx2.h",
        "static_cast<uint32_t>(_mm_cvtsi128_si32(two) | _mm_extract_epi32(two, 1))",
        "static_cast<uint32_t>(_mm_cvtsi128_si32(two))",
        agreement("backward", "slice_apply", "depth 8"),
        AVX2,
    ),
    "a last group in place of the first": Mutant(
        "cpu/splatter.inl",
        "repeat4(from + i * C + C / 4 * 4, C % 4, v)",
        "repeat4(from + i * C, C % 4, v)",
        agreement("forward", "splat", "wide many channels"),
    ),
    "a band's depths not cleared": Mutant(
        "cpu/splatter.inl",
        "        memset(column + z * g_.C, 0, static_cast<size_t>(n * g_.C) * sizeof(double));\n",
        "        (void)z, (void)n;\n",
        agreement("forward", "splat", "wide"),
    ),
    "depths that a band does not have": Mutant(
        "cpu/splatter.inl",
        "has = depths[b] ? depths[b][x] : all;",
        "has = all;",
        agreement("forward", "splat", "wide and flat"),
    ),
    # --- Gradients of the drivers
    "a slope along the other axis": Mutant(
        "cpu/drivers.inl",
        "scale(samples.slope_y, positions.dy);",
        "scale(samples.slope_y, positions.dx);",
        agreement("backward", "slice", "xy"),
    ),
    "no gradient through the guide": Mutant(
        "cpu/drivers.inl",
        "          guide.add_gradient(d_guide, tile.count, kPitch, 1, d_in);\n",
        "",
        "test_luma.py::test_same_bits_as_in_two_steps[{}-wide]",
    ),
    # --- Storage
    "float16 ties away from even": Mutant(
        "formulas.h",
        "(magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;",
        "(magnitude + 0xc8001000u) >> 13;",
        "test_special_values.py::test_results_are_rounded_to_nearest_even[{}-float16]",
    ),
    "bfloat16 rounded down": Mutant(
        "formulas.h",
        "const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;",
        "const uint32_t rounded = u >> 16;",
        "test_special_values.py::test_results_are_rounded_to_nearest_even[{}-bfloat16]",
    ),
    "levels that do not saturate": Mutant(
        "formulas.h",
        "(scaled < top ? scaled : top)",
        "scaled",
        "test_special_values.py::test_integer_results_saturate_and_round_half_to_even[{}-uint8]",
    ),
    "no last pixel of a run": Mutant(
        "cpu/storage.h",
        "for (; i < n; ++i) S::store_one(to + i * S::size, from[i]);",
        "for (; i + 1 < n; ++i) S::store_one(to + i * S::size, from[i]);",
        agreement("forward", "guide_luma", "plain"),
    ),
    "a stride between rows of channels ignored": Mutant(
        "cpu/storage.h",
        "b.dense_items = (b.c2 == 1 || b.stride2 == size) && (b.c1 == 1 || b.stride1 == size * b.c2);",
        "b.dense_items = b.c2 == 1 || b.stride2 == size;",
        "test_layouts.py::test_every_layout_of_every_input_gives_the_same_bits[apply-float32]",
    ),
    "a tail of one channel": Mutant(
        "cpu/tiles.h",
        "to[c * pitch + i] = S::load_one(from + (3 * i + c) * S::size);",
        "to[c * pitch + i] = S::load_one(from + 3 * i * S::size);",
        agreement("forward", "guide_luma", "plain"),
    ),
    "a result stored before the image is read": Mutant(
        "cpu/apply.inl",
        "const bool in_place = a.out.data == a.image.data;",
        "const bool in_place = false;",
        "test_layouts.py::test_out_may_be_the_image_itself[None-apply]",
    ),
    # --- Operations
    "no offset": Mutant(
        "cpu/apply.inl",
        "T sum = m.L > m.Ci ? row[m.Ci] : T(0);",
        "T sum = T(0);",
        agreement("forward", "apply", "plain"),
    ),
    "no offset beside many channels": Mutant(
        "cpu/apply.inl",
        "          sum += reduce_add(sums);\n",
        "          sum = reduce_add(sums);\n",
        agreement("forward", "apply", "many inputs"),
    ),
    "an offset's gradient times the image": Mutant(
        "cpu/apply.inl",
        "if (m.L > m.Ci) row[m.Ci] = g;",
        "if (m.L > m.Ci) row[m.Ci] = g * in[0];",
        agreement("backward", "apply", "4 to 3"),
    ),
    "green for blue": Mutant(
        "formulas.h",
        "channel == 1 ? 0.587 : 0.114;",
        "channel == 2 ? 0.587 : 0.114;",
        agreement("forward", "guide_luma", "plain"),
    ),
    "a gradient through a feature that is off": Mutant(
        "cpu/guides/nn.inl",
        "select_greater(h[m], zero, w2 * d)",
        "w2 * d",
        agreement("backward", "guide_nn", "plain"),
    ),
    "knots in descending order": Mutant(
        "cpu/guides/curves.inl",
        "for (; n > 1 && s[n - 1] > shifts[k]; --n) {",
        "for (; n > 1 && s[n - 1] < shifts[k]; --n) {",
        agreement("forward", "guide_curves", "many knots"),
    ),
    "a clipped guide's gradient": Mutant(
        "cpu/guides/curves.inl",
        "const V open = select_greater(v[m], zero, select_greater(one, v[m], load(grad + p + m * V::kLanes)));",
        "const V open = select_greater(v[m], zero, load(grad + p + m * V::kLanes));",
        agreement("backward", "guide_curves", "plain"),
    ),
    "lanes beyond the last pixel": Mutant(
        "cpu/guide.inl",
        "        grad[p] = T(0);\n",
        "",
        agreement("backward", "guide_nn", "one long row"),
    ),
    "the last band's sums": Mutant(
        "cpu/guide.inl",
        "for (int64_t band = 1; band < bands; ++band)",
        "for (int64_t band = 1; band + 1 < bands; ++band)",
        agreement("backward", "guide_nn", "large"),
    ),
    "sums that threads share": Mutant(
        "cpu/guide.inl",
        "LaneSums<T>(sums + band * size));",
        "LaneSums<T>(sums));",
        "test_threads.py::test_the_number_of_threads_changes_no_bit[{}-guide_nn-image]",
    ),
    "neighbours beyond the border": Mutant(
        "formulas.h",
        "int64_t count = shape[axis] - 1;",
        "int64_t count = shape[axis];",
        agreement("forward", "total_variation", "plain"),
    ),
    "no gradient from the row above": Mutant(
        "cpu/total_variation.inl",
        "const T* above = y + 1 < Gh ? rows[2].load(n, y + 1) : row;",
        "const T* above = row;",
        agreement("backward", "total_variation", "plain"),
    ),
    "a footprint beyond its pixel": Mutant(
        "formulas.h",
        "min_of((begin + 1) * count, to) - from",
        "(begin + 1) * count - from",
        agreement("forward", "resize_area", "enlarged"),
    ),
    "a band of rows without its last": Mutant(
        "cpu/resize_area.inl",
        "rows.begin + count * (band + 1) / bands, sums_);",
        "rows.begin + count * (band + 1) / bands - 1, sums_);",
        agreement("forward", "resize_area", "to one pixel"),
    ),
    "levels rounded half up": Mutant(
        "cpu/resize_area.inl",
        "rounded(sums[i] / all)",
        "sums[i] / all + 0.5",
        "test_reference.py::test_an_integer_area_is_exactly_rounded[{}-12-30-4-10-uint8-package]",
    ),
    "a sum that float cannot hold": Mutant(
        "cpu/resize_area.inl",
        "with_sums(storage, rows <= (1 << 24) / top,",
        "with_sums(storage, top < (1 << 24),",
        "test_reference.py::test_an_average_of_millions_of_pixels_is_accurate[{}-65536-61-uint16]",
    ),
    # --- Instruction sets
    "a matrix row's gradient in the wrong lane": Mutant(
        "cpu/matrix34.h",
        "_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)",
        "_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3)",
        agreement("backward", "apply", "plain"),
        AVX512,
    ),
    "an offset of nothing": Mutant(
        "cpu/matrix34.h",
        "_mm_blend_ps(first, _mm_set1_ps(1.0f), 8)",
        "_mm_blend_ps(first, _mm_set1_ps(0.0f), 8)",
        agreement("backward", "apply", "plain"),
        AVX2,
    ),
    # --- Grids that are named
    "pixels in another order": Mutant(
        "cpu/by_grid.cpp",
        "if (p.outputs[i]->data) copy_pixels(*given.outputs[i], *p.outputs[i], begin, end, false);",
        "if (p.outputs[i]->data) copy_pixels(*given.outputs[i], *p.outputs[i], begin, end - 1, false);",
        agreement("forward", "slice_apply", "index of pixels").format("scalar"),
        BY_GRID,
    ),
    "the last image's gradient alone": Mutant(
        "cpu/by_grid.cpp",
        "sum[i] += wide ?",
        "sum[i] = wide ?",
        agreement("backward", "slice", "index of one grid").format("scalar"),
        BY_GRID,
    ),
    "a grid that nobody names left as it was": Mutant(
        "cpu/by_grid.cpp",
        "if (gradient) store_grid(*p.d_grid, nullptr);",
        "",
        "test_index.py::test_grids_that_nobody_names_get_no_gradient[slice]",
        BY_GRID,
    ),
    "a grid beyond the last": Mutant(
        "cpu/by_grid.cpp",
        "if (m < 0 || m >= grids_) {",
        "if (m < 0 || m > grids_) {",
        "test_index.py::test_wrong_indices_are_refused[index must name one of 4 grids, from 0 to 3, got 4.]",
        BY_GRID,
    ),
    # --- Threads, and the mode that they compute in
    "a caller that does not wait": Mutant(
        "cpu/parallel.cpp",
        "    job.left.wait(lock, [&] { return job.helpers_inside == 0; });\n",
        "",
        "test_threads.py::test_a_result_is_whole_when_the_call_returns",
        "cpu/parallel.cpp",
    ),
    "the last unit left out": Mutant(
        "cpu/parallel.cpp",
        "(unit = next.fetch_add(1, std::memory_order_relaxed)) < units",
        "(unit = next.fetch_add(1, std::memory_order_relaxed)) < units - 1",
        "test_threads.py::test_callers_at_once_do_not_disturb_each_other",
        "cpu/parallel.cpp",
    ),
    "a child with its parent's threads": Mutant(
        "cpu/parallel.cpp",
        "[] { pool.store(nullptr); }",
        "[] {}",
        "test_threads.py::TestForked::test_a_child_and_its_child_compute_the_same_bits",
        "cpu/parallel.cpp",
    ),
    "subnormals flushed": Mutant(
        "float_mode.h",
        "kAllMasked = 0x1f80;",
        "kAllMasked = 0x9fc0;",
        "test_special_values.py::test_subnormal_and_signed_zero_pass[scalar-float32]",
        "cpu/parallel.cpp",  # whose copy of the class the linker takes for all
    ),
}


def text_of(mutant: Mutant) -> str:
    """The file with the bug."""
    return replaced(ROOT / "csrc" / mutant.file, mutant.old, mutant.new)


class Unplanted(Package):
    """The package as it is, of which parts are compiled once more."""

    def __init__(self, folder: Path) -> None:
        super().__init__(copied(folder))
        listed = ["ninja", "-C", self.build, "-t", "commands"]
        self.commands = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.splitlines()

    def with_bug(self, mutant: Mutant, folder: Path) -> Path:
        """A copy of src/ with the module that has the bug."""
        shutil.copytree(self.root / "csrc", folder / "csrc")
        shutil.copytree(self.root / "src", folder / "src")
        (folder / "csrc" / mutant.file).write_text(text_of(mutant), "utf-8")
        source = self.root / "csrc" / mutant.compiled
        (compile_it,) = (line for line in self.commands if f" -c {source}" in line)
        compiled = compile_it.split(" -o ")[1].split()[0]
        link_it = self.commands[-1].replace(compiled, f"{folder}/bug.o")
        link_it = link_it.replace(f"-o {self.module.name}", f"-o {folder}/src/bilateral_ops/{self.module.name}")
        compile_it = compile_it.replace(compiled, f"{folder}/bug.o").replace(f"{self.root}/csrc", f"{folder}/csrc")
        for command in (compile_it, link_it):
            subprocess.run(command, shell=True, cwd=self.build, check=True, capture_output=True, text=True)
        return folder / "src"


def verdict(package: Unplanted, mutant: Mutant) -> str:
    """What became of the bug; nothing where its test has seen it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            finished = run(package.with_bug(mutant, Path(folder)), [mutant.caught_by], isa=mutant.isa)
        except subprocess.CalledProcessError as error:
            return f"does not compile: {error.stderr}"
        except subprocess.TimeoutExpired:
            return f"{mutant.caught_by} does not end"
    if finished.returncode == 0:
        return f"{mutant.caught_by} does not see it"
    if finished.returncode == 1 or finished.returncode < 0:  # failed, or crashed
        return ""
    return f"{mutant.caught_by} was not run: {finished.stdout}{finished.stderr}"


def main(texts: Sequence[str]) -> str | None:
    chosen = {name: mutant for name, mutant in MUTANTS.items() if not texts or any(text in name for text in texts)}
    for mutant in chosen.values():
        text_of(mutant)
    with tempfile.TemporaryDirectory() as folder:
        package = Unplanted(Path(folder))
        finished = run(package.root / "src", sorted({mutant.caught_by for mutant in chosen.values()}))
        if finished.returncode != 0:
            return f"without a bug the tests must pass:\n{finished.stdout}{finished.stderr}"
        missed = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            verdicts = pool.map(lambda mutant: verdict(package, mutant), chosen.values())
            for name, wrong in zip(chosen, verdicts, strict=True):
                print(f"{'MISSED' if wrong else 'caught'}  {name}", flush=True)
                missed += [f"{name}: {wrong}"] if wrong else []
    return "\n".join(missed) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
