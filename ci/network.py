"""How this computer reaches package indexes, for pip in containers: proxies, indexes, certificates. Names no host."""

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

BUNDLE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def pip_settings() -> dict[str, str]:
    """Return this computer's pip settings (files and environment), as `global.index-url` and the like."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    settings = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        with suppress(SyntaxError, ValueError):
            settings[key] = str(ast.literal_eval(value))
    return settings


def pip_environment(environment: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which pip in a container reaches the same indexes through the same proxies as here."""
    result = {
        name: environment[name]
        for proxy in _PROXY_VARIABLES
        for name in (proxy, proxy.upper())
        if environment.get(name)
    }
    for name in ("index-url", "extra-index-url", "trusted-host", "timeout", "retries", "proxy"):
        variable = f"PIP_{name.replace('-', '_').upper()}"
        value = (
            environment.get(variable)
            or pip.get(f":env:.{name}")
            or pip.get(f"install.{name}")
            or pip.get(f"global.{name}")
        )
        # An index in a folder of this computer (file:) cannot be seen from a container.
        words = [word for word in (value or "").split() if name[-3:] != "url" or re.match("https?://", word)]
        if words:
            result[variable] = " ".join(words)
    return result


def certificates(environment: Mapping[str, str], pip: Mapping[str, str]) -> Path | None:
    """Return the bundle of certificates that this computer's settings name, if they name one that exists."""
    named = [environment.get(name) for name in BUNDLE_VARIABLES] + [pip.get("global.cert")]
    return next((Path(path) for path in named if path and Path(path).is_file()), None)
