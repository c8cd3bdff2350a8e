"""A certificate authority for one test run."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Authority = tuple[x509.Name, ec.EllipticCurvePrivateKey]


def make_authority(folder: Path) -> Authority:
    """Write a CA certificate to ca.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    _write(folder / "ca.pem", name, key, (name, key), x509.BasicConstraints(ca=True, path_length=None))
    return name, key


def make_certificate(folder: Path, authority: Authority, host: str) -> None:
    """Write a certificate for `host` to server.pem and its key to server.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    _write(folder / "server.pem", name, key, authority, x509.SubjectAlternativeName([x509.DNSName(host)]))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _write(path: Path, name: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: Authority, extension) -> None:
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer[0])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(extension, critical=True)
        .sign(issuer[1], hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
