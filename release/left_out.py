"""What is left out of the binary, though something that is in it may import it.

A test runs the client with all of this missing: tests/release/test_left_out.py.
"""

_MODULES = """
    _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _pydecimal
    asyncio.windows_events asyncio.windows_utils doctest ftplib http.cookiejar lib2to3 multiprocessing.managers
    pip pydoc pydoc_data pyexpat setuptools tkinter unittest webbrowser xml xmlrpc
    hf_xet huggingface_hub sympy torch yaml
    numpy.f2py numpy.ma numpy.polynomial numpy.testing
    onnxruntime.quantization onnxruntime.tools onnxruntime.transformers
    PIL.ImageCms PIL.ImageFont PIL.ImageGrab PIL.ImageQt PIL.ImageShow PIL.ImageTk PIL._avif
    pydantic.mypy pydantic.v1
    pygments.formatters.html pygments.formatters.img pygments.formatters.latex pygments.formatters.rtf
    pygments.formatters.svg
"""
MODULES = tuple(_MODULES.split())
"""Modules, with all below them."""

IMAGES = ("BmpImagePlugin", "GifImagePlugin", "JpegImagePlugin", "PngImagePlugin", "TiffImagePlugin", "WebPImagePlugin")
"""Pillow's readers that are kept: those of ``ravan.runtime.images.KINDS``."""

LEXERS = ("_mapping", "python")
"""What is kept of pygments.lexers: with RAVAN_DEBUG, tracebacks are in colour."""

DOCUMENTED = ("edge", "protos", "ravan")
"""Packages whose docstrings are kept, for typer makes its help of them; all others lose theirs."""


def plugins(every: list[str]) -> list[str]:
    """Pillow's readers that are left out, of all it has."""
    return [f"PIL.{name}" for name in every if name not in IMAGES]


def is_left_out(module: str) -> bool:
    """Whether a module that was found is not packed."""
    package, _, name = module.rpartition(".")
    return package == "pygments.lexers" and name not in LEXERS


def typecode(module: str) -> str:
    """PyInstaller's kind of a module: with or without docstrings."""
    return "PYMODULE" if module.partition(".")[0] in DOCUMENTED else "PYMODULE-2"
