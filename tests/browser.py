"""A real browser, for pages that are written to be looked at in one."""

import html
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def in_browser(page: str, script: str, folder: Path, width: int = 1200) -> tuple[dict, np.ndarray]:
    """What a script returns in a real browser that shows the page, and the picture that the browser drew."""
    if BROWSER is None:
        pytest.skip("needs a browser: no chromium is installed")
    collect = f"<script>document.title = JSON.stringify((() => {{ {script} }})());</script></body>"
    (folder / "page.html").write_text(page.replace("</body>", collect))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [f"--window-size={width},1600", f"--screenshot={folder / 'page.png'}", "--dump-dom"]
    run = subprocess.run([*command, f"file://{folder / 'page.html'}"], capture_output=True, text=True, timeout=120)
    title = run.stdout.split("<title>")[1].split("</title>")[0]
    return json.loads(html.unescape(title)), np.asarray(Image.open(folder / "page.png").convert("RGB")).astype(int)
