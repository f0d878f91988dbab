"""``wgan-sweep --init FOLDER``: writes a folder of own options, with an experiment, claims and a test."""

import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

from wgan_sweep.errors import InputError

TEMPLATE = Path(__file__).parent / "template"
"""The files that are copied."""


def write_template(path: Path) -> str:
    """Write the template to a new or empty folder; return a text with the commands to try next.

    Raises:
        InputError: if there is something already, or it cannot be written.
    """
    folder = path.expanduser().absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"--init={path} exists already and is not an empty folder: give another name")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as temporary:
            staged = Path(temporary) / folder.name
            for file in sorted(TEMPLATE.rglob("*")):
                if file.is_file() and file.parent.name != "__pycache__":
                    copy = staged / file.relative_to(TEMPLATE)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(file.read_bytes())
            staged.rename(folder)
    except OSError as error:
        raise InputError(f"--init={path} cannot be written ({error}): give another folder") from error
    name = shlex.quote(str(path))
    return (
        f"{name} holds a loss and a model (own_options.py), their options, an experiment, claims and a test.\n\n"
        f"Train its six short runs:   wgan-sweep --config-dir {name} experiment=own\n"
        f"Judge its claims by them:   wgan-report runs --claims {shlex.quote(str(path / 'claims.yaml'))}\n"
        f"Test it (needs pytest):     python -m pytest {name}\n"
        f"List its options:           wgan-sweep --config-dir {name} --help\n"
    )
