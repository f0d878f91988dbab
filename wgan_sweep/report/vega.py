"""The script that draws the charts of a page: Vega, Vega-Lite and vega-embed as one file."""

import hashlib
import logging
from importlib.metadata import version

from wgan_sweep.common.cache import cache_dir, cached
from wgan_sweep.common.files import write

log = logging.getLogger("wgan_sweep")


def script() -> str:
    """Return the script, which defines ``vegaEmbed``; bundling takes a second, so the result is cached."""
    import vl_convert

    path = cache_dir() / "scripts" / f"vega-{version('vl-convert-python')}.js"

    def read() -> str | None:
        try:
            digest, _, content = path.read_bytes().decode().partition("\n")
        except (OSError, ValueError):
            return None
        return content if digest == _digest(content) else None

    def make() -> str:
        content = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
        try:
            write(path, f"{_digest(content)}\n{content}")
        except OSError as error:
            log.warning("the script of charts is not cached: %s", error)
        return content

    return cached(path, "the script of charts", read, make)


def _digest(content: str) -> str:
    return f"// sha256 {hashlib.sha256(content.encode()).hexdigest()}"
