"""Certificates for a bus that other machines reach: an authority of our own and one certificate it signed.

The authority is made once and pinned by every agent at join; the certificate is made again when it runs out or when
the addresses change. `cryptography` is imported only here and only when needed: hosts do not install it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetlog_runtime.shell.files import create_private, private_folder, write_atomic
from fleetlog_runtime.shell.home import Home, HomeError

if TYPE_CHECKING:
    from cryptography import x509

AUTHORITY_DAYS = 3_650
"""Agents pin the authority, so replacing it means joining again."""
CERTIFICATE_DAYS = 398
"""What public authorities may give at most today."""
BACKDATED_DAYS = 7
"""Valid from so long ago: the clock of a machine that joins may be behind, by a day or by a wrong date."""
RENEW_DAYS = 30
"""Made anew at a start within this many days of its end."""


def client_context(ca: Path) -> ssl.SSLContext:
    """Return what a client needs to trust only the authority in *ca*."""
    return ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca))


def ensure_server_certificate(home: Home, addresses: tuple[str, ...]) -> None:
    """Make the authority, and a certificate for *addresses* and this machine's own names, where missing or old.

    Raises:
        HomeError: `cryptography` is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise HomeError("listening beyond this machine needs TLS: pip install 'fleetlog[server]'") from None
    folder = private_folder(home.path / "tls")
    names = sorted({*addresses, "127.0.0.1", "localhost", socket.gethostname()} - {"0.0.0.0", "::"})  # noqa: S104
    ensure_authority(folder)
    if not _good(folder, names):
        _write_certificate(folder, names)


def ensure_authority(folder: Path) -> None:
    """Make the authority in *folder* where there is none. Raises ImportError without `cryptography`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    if (folder / "ca.pem").exists():
        return
    create_private(folder / "ca.key", _key_bytes(ec.generate_private_key(ec.SECP256R1())))
    key = _load_key(folder / "ca.key")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fleetlog authority")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )
    certificate = (
        _dated(AUTHORITY_DAYS).subject_name(name).issuer_name(name).public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    create_private(folder / "ca.pem", _pem(certificate))


def _good(folder: Path, names: list[str]) -> bool:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        if json.loads((folder / "names.json").read_bytes()) != names:
            return False
        certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    except (OSError, ValueError):
        return False
    if ExtendedKeyUsageOID.CLIENT_AUTH not in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value:
        return False  # a node of a cluster shows it to the others as a client, too
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    return left > dt.timedelta(days=RENEW_DAYS) and (folder / "server.key").exists()


def _write_certificate(folder: Path, names: list[str]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    authority_key = _load_key(folder / "ca.key")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _dated(CERTIFICATE_DAYS)
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fleetlog bus")]))
        .issuer_name(authority.subject).public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    write_atomic(folder / "server.key", _key_bytes(key))
    write_atomic(folder / "server.pem", _pem(certificate))
    write_atomic(folder / "names.json", json.dumps(names).encode())


def _dated(days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder().serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=BACKDATED_DAYS)).not_valid_after(now + dt.timedelta(days=days))
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_bytes(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    body: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return body


def _load_key(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization

    return serialization.load_pem_private_key(path.read_bytes(), password=None)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)
