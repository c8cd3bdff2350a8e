"""Secrets stay out of packs, even when tracked: by name and by content; and ordinary code stays in.

No secret stands here: the forms are put together when the tests run.
"""

import base64
import hashlib
import socket
import string
from pathlib import Path
from random import Random

import pytest
from workspaces import git, write

from infbox.pack.secrets import secret_in, secret_name
from infbox.pack.select import Exclusion, Selector

LETTERS, HEX = string.ascii_letters + string.digits, "0123456789abcdef"


def some(alphabet: str, number: int, seed: int = 7) -> str:
    return "".join(Random(seed).choices(alphabet, k=number))


def pem(kind: str, line_end: str = "\n") -> str:
    body = base64.b64encode(Random(1).randbytes(480)).decode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return line_end.join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""])


FORMS = {
    "AWS Access Key": "AK" + "IA" + some(string.ascii_uppercase, 16),
    "GitHub Token": "gh" + "p_" + some(LETTERS, 36),
    "GitHub Fine-grained Token": "github" + "_pat_" + some(LETTERS, 82),
    "GitLab Token": "gl" + "pat-" + some(LETTERS, 20),
    "Slack Token": "xo" + "xb-" + some(string.digits, 12) + "-" + some(string.digits, 12) + "-" + some(HEX, 24),
    "Stripe Access Key": "sk" + "_live_" + some(LETTERS, 24),
    "OpenAI API Key": "sk" + "-proj-" + some(LETTERS + "_-", 74) + "T3Blbk" + "FJ" + some(LETTERS + "_-", 74),
    "Anthropic API Key": "sk-" + "ant-api03-" + some(LETTERS, 95),
    "Google API Key": "AI" + "za" + some(LETTERS, 35),
    "Hugging Face Token": "h" + "f_" + some(string.ascii_letters, 34),
    "npm Token": "np" + "m_" + some(LETTERS, 36),
    "PyPI Token": "py" + "pi-AgEIcHlwaS5vcmc" + some(LETTERS, 80),
    "SendGrid API Key": "S" + "G." + some(LETTERS, 22) + "." + some(LETTERS, 43),
    "age Secret Key": "AGE-" + "SECRET-KEY-1" + some(string.ascii_uppercase, 58),
    "infbox Key": "infbox" + "-" + some(LETTERS + "_-", 43),
}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("around", ['TOKEN = "{}"\n', "export TOKEN={}\n", "{}", "- key: {}\n  b: c\n"])
def test_tokens_are_known_by_their_form_with_the_line_they_stand_in(kind: str, around: str) -> None:
    assert secret_in(b"first\n" + around.format(FORMS[kind]).encode()) == f"{kind} at line 2"


@pytest.mark.parametrize("kind", ["RSA", "EC", "OPENSSH", "ENCRYPTED", "DSA"])
def test_private_keys_are_known_however_they_are_written_down(kind: str) -> None:
    written = pem(f"{kind} PRIVATE KEY")
    as_json = pem("PRIVATE KEY", "\\n")
    as_yaml = written.replace("\n", "\n    ")
    in_code = written.replace("\n", '\\n"\n    "')
    with_head = written.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1)
    windows = written.replace("\n", "\r\n")
    for text in (
        written,
        f'{{"private_key": "{as_json}"}}',
        f"key: |\n    {as_yaml}",
        f'KEY = "{in_code}"',
        with_head,
        windows,
    ):
        assert (secret_in(text.encode()) or "").startswith("Private Key at line ")


def lock_file() -> str:
    sums = (hashlib.sha512(bytes([number])).digest() for number in range(200))
    return "\n".join(f'    "integrity": "sha512-{base64.b64encode(each).decode()}",' for each in sums)


ORDINARY = {
    "a lock file": lock_file(),
    "hashes": "\n".join(f"--hash=sha256:{hashlib.sha256(bytes([number])).hexdigest()} \\" for number in range(200)),
    "code that reads keys": 'if "-----BEGIN RSA PRIVATE KEY-----" in text:\n    raise ValueError("a private key")\n',
    "a certificate": pem("CERTIFICATE"),
    "a public key": pem("PUBLIC KEY") + "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + some(LETTERS, 43),
    "names of variables": 'key = os.environ["AWS_SECRET_ACCESS_KEY"]\npassword = "password"\ntoken = get_token()\n',
    "a documented example": "AK" + "IAIOSFODNN7" + "EXAMPLE\n" + "gh" + "p_" + "x" * 36,
    "a local database": "postgres://postgres:postgres@localhost:5432/test\n",
    "a pattern of tokens": 'GITHUB = re.compile(r"gh[pousr]_[A-Za-z0-9]{36}")\nOURS = r"infbox-[A-Za-z0-9_-]{43}"\n',
    "a unit's name": "infbox-" + "watcher-restarts-when-the-configuration-changes-often.service",
    "uuids": "\n".join(some(HEX, 8, seed) + "-4a4a-4a4a-4a4a-" + some(HEX, 12, seed) for seed in range(50)),
    "bytes in base64": base64.b64encode(Random(3).randbytes(60_000)).decode(),
    "nothing": "",
}


@pytest.mark.parametrize("what", ORDINARY)
def test_ordinary_files_are_no_secrets(what: str) -> None:
    assert secret_in(ORDINARY[what].encode()) is None


def test_this_repositorys_own_files_are_no_secrets() -> None:
    root = Path(__file__).parents[2]
    selector = Selector(root)
    refused = {path: str(it) for path in selector.listing().files if isinstance(it := selector.read(path), Exclusion)}
    assert {path: reason for path, reason in refused.items() if "secret" in reason} == {}


@pytest.mark.parametrize(
    "path",
    [
        *(
            ".env",
            ".env.local",
            ".env.example",
            "app/.ENV",
            ".envrc",
            "prod.env",
            "id_rsa",
            "deep/id_ed25519",
            "a/b.pem",
        ),
        *("server.key", "credentials.json", ".npmrc", ".netrc", ".ssh/config", "home/.aws/credentials", "x.tfstate"),
        *(".docker/config.json", "keys/store.jks", "secrets.yaml", "terraform.tfvars", "ssh_host_rsa_key"),
    ],
)
def test_names_that_hold_secrets_are_known(path: str) -> None:
    assert secret_name(path)


@pytest.mark.parametrize(
    "path",
    [
        *("env.py", "src/environment.ts", "id_rsa.pub", "docs/keys.md", "credentials.py", "secrets.py", "keyboard.c"),
        *(".docker/Dockerfile", ".aws/task-definition.json", "monkey.txt", "package-lock.json", "poetry.lock", "key"),
    ],
)
def test_names_of_ordinary_files_are_not_taken_for_secrets(path: str) -> None:
    assert secret_name(path) is None


def test_a_tracked_secret_stays_out_and_explain_says_by_which_rule(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write(
        tmp_path,
        **{".env": "A=1", "deploy.sh": f"#!/bin/sh\nexport T={FORMS['GitHub Token']}\n", "key.py": "KEY = 1\n"},
    )
    git(tmp_path, "add", ".")
    selector = Selector(tmp_path)
    assert selector.listing().files == [".env", "deploy.sh", "key.py"]
    by_name = Exclusion("its name says that it holds secrets", "the name .env*")
    by_content = Exclusion("it holds a secret", "GitHub Token at line 2")
    assert selector.explain(".env") == selector.read(".env") == by_name
    assert selector.explain("deploy.sh") == selector.read("deploy.sh") == by_content
    assert selector.read("key.py") == b"KEY = 1\n"
    assert selector.load("deploy.sh") == (tmp_path / "deploy.sh").read_bytes()


def test_no_issuer_is_ever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert all(secret_in(form.encode()) for form in FORMS.values())


@pytest.mark.parametrize(
    "unit",
    ["sk-", "glagent-", "awskey", "xoxb-1-", "-----BEGIN RSA PRIVATE KEY-----\n", "hvs.", "A", "eyJ.", "pypi-", " "],
)
def test_a_file_made_to_keep_the_patterns_busy_is_answered(unit: str) -> None:
    secret_in(unit.encode() * (512 * 1024 // len(unit)))
