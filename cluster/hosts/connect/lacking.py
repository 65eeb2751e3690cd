"""How to install a module that a kernel needs and a host lacks."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import packages_distributions

from cluster.hosts.connect import srun
from cluster.hosts.connect.ssh import is_here
from cluster.hosts.nodes import Node

# Packages whose modules have other names. For any other module, the metadata of the packages that
# are installed here are consulted.
_PACKAGES = {
    "Bio": "biopython",
    "Crypto": "pycryptodome",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "git": "gitpython",
    "igraph": "python-igraph",
    "jwt": "pyjwt",
    "mpl_toolkits": "matplotlib",
    "osgeo": "gdal",
    "rdkit": "rdkit",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "usb": "pyusb",
    "win32api": "pywin32",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}


def installing(module: str, node: Node, python: str | None = None) -> str:
    """The command line that installs a missing module on a host.

    Args:
        module: its name, up to the first dot.
        node: the host.
        python: the interpreter there; None: not known.
    """
    if module in sys.stdlib_module_names:
        return (
            f"the Python there was built without {module}, which is a part of Python: name another"
            " interpreter with the node's key python"
        )
    line = f"{shlex.quote(python or node.python or sys.executable)} -m pip install"
    if is_here(node):
        where = ""
    elif node.attach is not None or srun.reaches(node):
        where = "there: "
    else:
        port = f"-p {node.port} " if node.port is not None else ""
        user = f"{node.user}@" if node.user is not None else ""
        where = f"ssh {port}{user}{node.host} "
    name, sure = distribution(module)
    return f"{where}{line} {name}" + ("" if sure else ", if that is the name of its package")


def distribution(module: str) -> tuple[str, bool]:
    """The package of a module, and whether that is certain."""
    if module in _PACKAGES:
        return _PACKAGES[module], True
    owners = packages_distributions().get(module)
    return (owners[0], True) if owners else (module, False)
