"""What is a secret: by a file's name, which costs nothing, and by its content, which is for files that a pack takes.

By content only what has a form of its own counts: a private key with its body, a token with its issuer's prefix. What
guesses (entropy, words such as `password`, addresses with a password, JWTs, bare hex) is left out on purpose: in
ordinary code it finds lock files, hashes and tests. The forms are detect-secrets' where it has them, and those below
that came after its last release. Only its patterns are used, nothing is ever asked of an issuer.
"""

import importlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Protocol, cast

# Names are compared in lower case. `.env*` takes `.env.example` along: people forget what they have put there.
_FOLDERS = frozenset({".ssh", ".gnupg", ".password-store"})
_IN_FOLDERS = frozenset({".aws/config", ".docker/config.json", ".kube/config"})
_NAMES = frozenset(
    {
        ".boto",
        ".dockercfg",
        ".git-credentials",
        ".htpasswd",
        ".my.cnf",
        ".netrc",
        ".npmrc",
        ".pgpass",
        ".pypirc",
        ".s3cfg",
        ".terraformrc",
        ".vault-token",
        "_netrc",
        "application_default_credentials.json",
        "client_secret.json",
        "credentials",
        "credentials.json",
        "credentials.toml",
        "credentials.yaml",
        "credentials.yml",
        "master.key",
        "secrets.json",
        "secrets.toml",
        "secrets.yaml",
        "secrets.yml",
        "secring.gpg",
        "service-account.json",
        "service_account.json",
        "token.pickle",
    }
)
_BEGINNINGS = (".env", ".vault_pass", ".vault-pass")
_KEY_NAMES = ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "ssh_host_")
_KEY_ENDINGS = (".pem", ".key", ".p8", ".p12", ".pfx", ".pkcs12", ".jks", ".keystore", ".bks", ".ppk", ".kdb", ".kdbx")
_ENDINGS = (
    *(*_KEY_ENDINGS, ".agekey", ".ovpn", ".mobileprovision"),
    *(".env", ".tfstate", ".tfstate.backup", ".tfvars", ".tfvars.json"),
)


def secret_name(path: str) -> str | None:
    """The rule by which a path's names say that a secret is in it, as in `the name .env*`; None if none does.

    Args:
        path: relative, with slashes.
    """
    path = path.lower()
    folder, _, name = path.rpartition("/")
    if name in _NAMES:
        return f"the name {name}"
    if name.startswith(_BEGINNINGS):
        return f"the name {next(each for each in _BEGINNINGS if name.startswith(each))}*"
    if name.startswith(_KEY_NAMES) and not name.endswith(".pub"):
        return f"the name {next(each for each in _KEY_NAMES if name.startswith(each))}*"
    if name.endswith(_ENDINGS):
        return f"the name *{next(each for each in _ENDINGS if name.endswith(each))}"
    if "." not in folder:
        return None
    if secret := next((each for each in folder.split("/") if each in _FOLDERS), None):
        return f"the folder {secret}/"
    inner = f"{folder.rpartition('/')[2]}/{name}"
    return f"the name {inner}" if inner in _IN_FOLDERS else None


# Not `openai`: its form backtracks without bound, so that one file of somebody's could keep a shared watcher busy.
_DETECTORS = {
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "mailchimp": "MailchimpDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
}
# detect-secrets takes the header of a private key alone, which code that reads keys has too; so the body counts here.
_LATER_FORMS = {
    "Private Key": r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n|\\r|[\"'+,])*"
    r"(?:[A-Za-z-]+: [^\n]{0,200}\n\s*)*[A-Za-z0-9+/=]{32}",
    "PuTTY Private Key": r"^PuTTY-User-Key-File-[23]: ",
    "age Secret Key": r"\bAGE-SECRET-KEY-1[0-9A-Z]{58}\b",
    "Anthropic API Key": r"\bsk-ant-(?:api|admin)\d{2}-[\w-]{80,}",
    "Databricks Token": r"\bdapi[0-9a-f]{32}\b",
    "DigitalOcean Token": r"\bdo[oprt]_v1_[0-9a-f]{64}\b",
    "Docker Token": r"\bdckr_(?:pat|oat)_[\w-]{27}",
    "GitHub Fine-grained Token": r"\bgithub_pat_\w{82}\b",
    "Google API Key": r"\bAIza[\w-]{35}\b",
    "Google OAuth Client Secret": r"\bGOCSPX-[\w-]{28}\b",
    "Grafana Token": r"\bglsa_[A-Za-z0-9]{32}_[0-9A-Fa-f]{8}\b",
    "Hugging Face Token": r"\bhf_[A-Za-z]{34}\b",
    "npm Token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "OpenAI API Key": r"(?<![\w-])sk-[\w-]{16,160}T3BlbkFJ[\w-]{16}",
    "Slack App Token": r"\bxapp-\d-[A-Z0-9]{8,}-\d{8,}-[0-9a-f]{32,}",
    "Vault Token": r"\bhv[sbr]\.[\w-]{24,}",
    "infbox Key": r"(?<![\w-])infbox-[A-Za-z0-9_-]{43}(?![\w-])",
}
_EXAMPLE = re.compile(r"EXAMPLE|x{8}|X{8}|0{8}|\*{4}")


class _Detector(Protocol):
    secret_type: str
    denylist: Sequence[re.Pattern[str]]


def secret_in(content: bytes) -> str | None:
    """The kind of secret in a file and the line it begins at, as in `GitHub Token at line 3`; None if there is none.

    What says of itself that it is an example (`EXAMPLE`, eight x or zeros) does not count.

    Args:
        content: the whole file.
    """
    text = content.decode("utf-8", "replace")
    for kind, form in _forms():
        for match in form.finditer(text):
            if not _EXAMPLE.search(match.group()):
                return f"{kind} at line {text.count(chr(10), 0, match.start()) + 1}"
    return None


@cache
def _forms() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Loaded with the first file that is asked about: detect-secrets brings an HTTP client along, which is not used."""
    forms = [(kind, re.compile(form, re.MULTILINE)) for kind, form in _LATER_FORMS.items()]
    for module, name in _DETECTORS.items():
        detector = cast(_Detector, getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name))
        forms += [(detector.secret_type, form) for form in detector.denylist]
    return tuple(forms)
