"""Authorities and certificates for servers on loopback, made by `openssl`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_authority(folder: Path, name: str) -> Path:
    """An authority for certificates; gives its own certificate."""
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", f"/CN=penstock test {name}",
        "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"),
    )  # fmt: skip
    return folder / f"{name}.pem"


def sign(folder: Path, authority: str, name: str) -> Path:
    """A certificate for loopback, signed by an authority; gives one file of key, certificate and authority."""
    base = folder / name
    _openssl(
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-keyout",
        f"{base}.key",
        "-out",
        f"{base}.csr",
    )
    (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _openssl(
        "x509", "-req", "-days", "3650", "-in", f"{base}.csr", "-CA", str(folder / f"{authority}.pem"),
        "-CAkey", str(folder / f"{authority}.key"), "-CAcreateserial", "-extfile", f"{base}.ext", "-out", f"{base}.crt",
    )  # fmt: skip
    key = _openssl("pkcs8", "-topk8", "-nocrypt", "-in", f"{base}.key")
    store = folder / f"{name}.store.pem"
    store.write_text(key + base.with_suffix(".crt").read_text() + (folder / f"{authority}.pem").read_text())
    return store


def _openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr}")
    return done.stdout
