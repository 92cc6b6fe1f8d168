"""https with a real client, and certificates that cannot be used."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.server.conftest import started
from twofold.errors import SettingsError
from twofold.server.settings import Tls

PASSWORD = "open sesame"


def write_pair(folder: Path, password: str = "") -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "twofold test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    return files


def test_a_client_that_trusts_the_certificate_talks_https(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, PASSWORD)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    files = ("--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-password-file", tmp_path / "password")
    with started(*map(str, files), "--header-timeout", "1", "--max-connections", "4") as server:
        assert server.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=certificate)
        with (
            httpx.Client(verify=trusted) as http,
            openai.OpenAI(
                base_url=server.url + "/v1", api_key="none", http_client=openai.DefaultHttpxClient(verify=trusted)
            ) as client,
        ):
            assert http.get(server.url + "/health").status_code == 200
            found = client.completions.create(model="demo", prompt="def f(", max_tokens=4, stream=True)
            assert "".join(chunk.choices[0].text for chunk in found)
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(server.url + "/health")
        parts = urlsplit(server.url)
        for hello in (b"", b"GET /health HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
            held = [socket.create_connection((parts.hostname, parts.port), timeout=30) for _ in range(4)]
            for one in held:
                one.sendall(hello)
            for one in held:
                one.recv(100)  # ends: there is no handshake
                one.close()
            assert httpx.get(server.url + "/health", verify=trusted).status_code == 200  # and all are free again
        assert server.stop() == 0


def test_files_that_are_no_pair_are_refused_before_loading(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, PASSWORD)
    (tmp_path / "other").mkdir()
    other, other_key = write_pair(tmp_path / "other")
    Tls(certificate=other, key=other_key)
    for pair in ((certificate, other_key), (key, certificate), (certificate, tmp_path / "none"), (certificate, key)):
        with pytest.raises(SettingsError, match="cannot be used"):
            Tls(certificate=pair[0], key=pair[1], password="wrong")
    with pytest.raises(SettingsError, match="cannot be used"):
        Tls(certificate=certificate, key=key)
