"""Pyright over the program finds what mocks let pass: a name that the provider does not have."""

import json
import subprocess
import tomllib

from stack_program import PROGRAM, ROOT


def test_pyright_catches_a_wrong_argument_name(tmp_path):
    right = (PROGRAM / "gpu_node.py").read_text()
    wrong = right.replace("size=args.data_size_gib", "size_gib=args.data_size_gib")
    wrong = wrong.replace('"http_tokens": "required"', '"http_token": "required"')
    assert wrong.count("size_gib=args") == wrong.count('"http_token"') == 1
    (tmp_path / "gpu_node.py").write_text(wrong)
    settings = {"include": ["."], "typeCheckingMode": "strict", "venvPath": str(ROOT), "venv": ".venv"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [ROOT / ".venv/bin/pyright", "--project", tmp_path, "--outputjson"], capture_output=True, text=True
    )
    lines = wrong.splitlines()
    found = [lines[each["range"]["start"]["line"]].strip() for each in json.loads(done.stdout)["generalDiagnostics"]]
    assert len(found) == 2, done.stdout
    assert found[0] == "volume = aws.ebs.Volume("
    assert found[1].startswith('metadata_options={"http_endpoint"')


def test_pyright_looks_at_the_program():
    assert "pulumi" in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]["include"]
