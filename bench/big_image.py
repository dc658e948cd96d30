"""The big image of the benchmarks: the Debian of the small one with numeric Python packages, over 3 GB.

Only its core is imported by jobs. The rest is what such images carry besides: other frameworks, GPU libraries,
editors; it is unpacked without its dependencies, because nothing imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from bench.images import DEBIAN_SUITE, building, pack_sif, packer, run_tool, unpack_debian

HEAVY_IMPORT = "import torch, scipy.stats, pandas, sklearn.ensemble"
LIGHT_IMPORT = "import json, numpy"

CORE = (
    "torch==2.13.0", "scipy==1.17.1", "pandas==3.1.1", "scikit-learn==1.9.1", "numpy==2.4.6", "jax==0.10.2",
    "jaxlib==0.10.2", "pyarrow==26.0.1", "numba==0.68.1", "llvmlite==0.50.0", "fsspec==2026.9.0",
    "joblib==1.6.0", "ml_dtypes==0.6.0", "narwhals==2.28.0", "networkx==3.6.1", "python-dateutil==4.0.0",
    "setuptools==84.2.1", "sympy==1.14.0", "threadpoolctl==3.8.0", "typing-extensions==4.16.0",
    "filelock==4.2.11", "jinja2==3.1.6", "opt_einsum==3.4.0", "cloudpickle==3.1.2", "MarkupSafe==3.0.4",
    "mpmath==1.3.0", "tzdata==2026.6",
)  # fmt: skip
BALLAST = (
    "nvidia-cudnn-cu13==9.28.0.42", "nvidia-cublas==13.10.0.20", "triton==3.9.0", "tensorflow-cpu==2.21.0",
    "mkl==2026.2.0", "paddlepaddle==3.3.1", "vtk==9.7.2", "cupy-cuda12x==14.2.0", "xgboost==3.2.0",
    "catboost==1.2.10", "ray==2.60.0", "opencv-python-headless==5.0.0.93", "openvino==2026.4.1",
    "polars-runtime-32==2.1.0", "polars==2.1.0", "pyscf==2.14.0", "rasterio==1.4.4", "spacy==3.8.18",
    "ortools==9.15.6755", "duckdb==2.0.0", "onnxruntime==1.31.1", "onnx==1.23.2", "jupyterlab==4.6.6",
    "botocore==1.44.5", "scikit-image==0.26.0", "transformers==5.23.0", "statsmodels==0.15.0",
    "astropy==8.0.2", "matplotlib==3.11.2", "plotly==7.1.0", "torchvision==0.29.1", "bokeh==3.9.2",
    "h5py==3.16.0", "lightgbm==4.7.0", "dask==2026.8.0",
)  # fmt: skip
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (34, 28, 27, 24, 17, 12, 5)),
    *(f"manylinux{year}_x86_64" for year in (2014, 2010, 1)),
)


def numeric_sif(directory: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Build, or find from an earlier call, the big image; the first time takes some ten minutes and 15 GB.

    Packages come from the index that pip on this machine is configured for. Where torch there is built for CUDA
    its libraries are not installed and it cannot be imported: point pip at the builds for CPU.

    Raises:
        CannotBuild: not root, a tool is missing, a package cannot be had, or the heavy import fails.
    """
    path = directory / f"debian-{DEBIAN_SUITE}-numeric-{packer()}-1.sif"
    with building(path) as root:
        if root is None:
            return path
        unpack_debian(root, say)
        say(f"installing {len(CORE) + len(BALLAST)} Python packages")
        packages = root / "usr/local/lib/python3.11/dist-packages"
        run_tool(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--upgrade",
             "--only-binary=:all:", "--python-version=3.11", "--implementation=cp",
             *(f"--platform={platform}" for platform in PLATFORMS),
             "--target", str(packages), *CORE, *BALLAST]
        )  # fmt: skip
        # pip would compile for the Python it runs in; templates among the files do not compile, which is no failure
        compile_all = f"python3 -m compileall -qq -j2 {packages.relative_to(root)} || true"
        run_tool(["chroot", str(root), "sh", "-c", compile_all])
        run_tool(["chroot", str(root), "python3", "-c", HEAVY_IMPORT])  # that this can be imported
        say("packing the image")
        pack_sif(root, path)
    return path
