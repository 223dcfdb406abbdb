"""A CA of one's own, and the certificates that it signs: for a bus (and gateways) that no public CA knows."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mcpctl.cli.errors import CliError
from mcpctl.cli.private_file import read_private, write_private

CA_DAYS = 3650
EARLIER = timedelta(minutes=5)
"""Clocks differ: a certificate is good from a little before it was made."""


class Certificates:
    """`ca.pem` and `server.pem` with their keys in one folder; only the first is for others to have."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.ca_key = folder / "ca.pem", folder / "ca.key"
        self.certificate, self.key = folder / "server.pem", folder / "server.key"

    def make(self, hosts: Sequence[str], days: int, *, rotate: bool) -> datetime:
        """Make what is missing, a new server certificate if one is to be rotated. Returns when it expires.

        Raises `CliError` where there is one already and it is not to be rotated, or where a file cannot be used.
        """
        if self.certificate.exists() and not rotate:
            raise CliError(f"{self.certificate} is there: --rotate makes a new one of the same CA")
        if self.ca.exists() != self.ca_key.exists():
            raise CliError(f"{self.ca} and {self.ca_key} belong together, and one of them is missing")
        if not self.ca.exists():
            self._make_ca()
        ca, ca_key = self._load_ca()
        key = ec.generate_private_key(ec.SECP256R1())
        expires = min(datetime.now(UTC) + timedelta(days=days), ca.not_valid_after_utc)
        names: list[x509.GeneralName] = [_general_name(host) for host in hosts]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # servers of a cluster are both
        builder = (
            _builder(hosts[0], key.public_key(), ca.subject, expires)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        write_private(self.key, _pem_of(key))
        write_private(self.certificate, builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM).decode())
        return expires

    def _make_ca(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mcpctl CA")])
        builder = (
            _builder("mcpctl CA", key.public_key(), name, datetime.now(UTC) + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs=True), critical=True)
        )
        write_private(self.ca_key, _pem_of(key))
        write_private(self.ca, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode())

    def _load_ca(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
            key = load_pem_private_key((read_private(self.ca_key) or "").encode(), None)
        except (OSError, ValueError) as error:
            raise CliError(f"{self.ca} and {self.ca_key} are not a CA of this command") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise CliError(f"{self.ca_key} is not the key of {self.ca}")
        return certificate, key


def _builder(name: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - EARLIER)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
