"""An offscreen OpenGL window, on any machine that has one: GPU or software, with a screen or without.

VTK by itself crashes the process where the system has no OpenGL library. :func:`make_window` looks
first, and says what to install. The surface view calls it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

from vtkmodules import vtkRenderingOpenGL2, vtkRenderingUI  # noqa: F401  register the window classes
from vtkmodules.vtkCommonCore import vtkLogger
from vtkmodules.vtkRenderingCore import vtkRenderWindow

from PartialSegLib.errors import PartialSegError

#: On Linux, in this order: the class of window and the library that it loads when it is made.
_LINUX_WINDOWS = (
    ("vtkEGLRenderWindow", ("libEGL.so.1",)),
    ("vtkOSOpenGLRenderWindow", ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")),
)


class OpenGLError(PartialSegError):
    """No OpenGL, neither hardware nor software, to draw 3D views with."""

    code = "opengl"
    exit_code = 9


def make_window() -> vtkRenderWindow:
    """Return an offscreen window that can render.

    Raises
    ------
    OpenGLError
        When the machine has no OpenGL, with what to install.
    """
    make = _window_class()
    if make is None:
        raise OpenGLError(
            "3D views need OpenGL, and this machine has none.",
            "On Debian or Ubuntu: apt install libosmesa6, or libegl1 and libgl1-mesa-dri."
            if sys.platform.startswith("linux")
            else "Install a graphics driver with OpenGL 3.2.",
        )
    window = make()
    window.SetOffScreenRendering(1)
    window.SetShowWindow(False)
    return window


@cache
def _window_class() -> Callable[[], vtkRenderWindow] | None:
    """Return the first class of window that works here; the answer does not change while a process lives."""
    if not sys.platform.startswith("linux"):
        return vtkRenderWindow if _supports_opengl(vtkRenderWindow) else None
    for name, libraries in _LINUX_WINDOWS:
        make = getattr(vtkRenderingOpenGL2, name, None)
        if make is not None and any(_loads(library) for library in libraries) and _supports_opengl(make):
            return make
    return None


def _loads(library: str) -> bool:
    """Whether a library can be loaded; a window whose library is missing ends the process."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _supports_opengl(make: Callable[[], vtkRenderWindow]) -> bool:
    """Whether a window of this class gets a context (VTK's own warnings are kept quiet meanwhile)."""
    verbosity = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    try:
        window = make()
        window.SetOffScreenRendering(1)
        return bool(window.SupportsOpenGL())
    finally:
        vtkLogger.SetStderrVerbosity(verbosity)
