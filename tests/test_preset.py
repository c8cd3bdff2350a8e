"""Presets against the roles' argument specs, in small checkouts made for the purpose."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from infbox.cli import main
from infbox.errors import PresetError
from infbox.preset import check_presets, find_root, load_hierarchy, load_preset
from infbox.strict_yaml import MAX_BYTES
from infbox.variables import load_variables

SPECS = {
    "vllm": {
        "vllm_max_model_len": {"type": "int", "description": "Tokens."},
        "vllm_dtype": {"type": "str", "description": "Kind of number.", "choices": ["auto", "float32"]},
        "vllm_share": {"type": "float", "description": "Part of the memory."},
        "vllm_eager": {"type": "bool", "description": "No graphs."},
        "vllm_root": {"type": "path", "description": "A folder."},
        "vllm_extra": {"type": "raw", "description": "Anything."},
        "vllm_flags": {"type": "list", "elements": "str", "description": "Flags."},
        "vllm_levels": {"type": "list", "elements": "int", "choices": [1, 2], "description": "Levels."},
        "vllm_key": {"type": "int", "no_log": True, "description": "A secret."},
        "vllm_tiers": {
            "type": "list",
            "elements": "dict",
            "description": "Tiers.",
            "options": {
                "kind": {"type": "str", "choices": ["ram", "disk"], "required": True, "description": "Kind."},
                "size_gb": {"type": "int", "description": "Size."},
            },
        },
    },
    "model": {"model_source": {"type": "str", "required": True, "description": "Where it comes from."}},
}


def checkout(
    root: Path, presets: Mapping[str, str], hierarchy: str = "all: {children: {cpu: {children: {mybox: {}}}}}"
) -> Path:
    """A checkout with two roles and these files of group_vars, `name` → text."""
    for role, options in SPECS.items():
        meta = root / "roles" / role / "meta"
        meta.mkdir(parents=True)
        spec = {"argument_specs": {"main": {"short_description": role, "options": options}}}
        (meta / "argument_specs.yml").write_text(yaml.safe_dump(spec))
    (root / "inventories/group_vars").mkdir(parents=True)
    (root / "inventories/presets.yml").write_text(hierarchy)
    for name, text in presets.items():
        path = root / "inventories/group_vars" / f"{name}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


def one_preset(root: Path, text: str) -> Path:
    return checkout(root, {"cpu": text}, "all: {children: {cpu: {}}}")


def said_of(root: Path, text: str) -> list[str]:
    """What `preset check` says of a preset with this text: sentence and hint of each problem."""
    return [f"{problem.sentence} | {problem.hint}" for problem in check_presets(one_preset(root, text))]


# --- what a value may be


def test_a_misspelled_variable_is_named_with_its_file_its_line_and_the_nearest_right_one(tmp_path: Path) -> None:
    said = said_of(tmp_path, "---\nvllm_dtype: auto\nvllm_max_modle_len: 8192\n")
    assert said == [
        "inventories/group_vars/cpu.yml:3: no role declares `vllm_max_modle_len` | did you mean `vllm_max_model_len`?"
    ]


def test_a_variable_like_no_other_is_sent_to_the_specs(tmp_path: Path) -> None:
    said = said_of(tmp_path, "vllm_teapot: 1\nkettle: 2\n")
    assert said[0].endswith("what is declared stands in roles/vllm/meta/argument_specs.yml")
    assert said[1].endswith("what is declared stands in roles/*/meta/argument_specs.yml")


@pytest.mark.parametrize(
    "line",
    [
        "vllm_max_model_len: 8192",
        "vllm_share: 1",
        "vllm_share: 0.5",
        "vllm_eager: false",
        "vllm_root: /srv/models",
        "vllm_extra: {a: [1, null]}",
        "vllm_flags: []",
        "vllm_levels: [1, 2]",
        "vllm_dtype: auto",
        "vllm_tiers: [{kind: ram, size_gb: 4}]",
        "{}",
    ],
)
def test_values_of_their_declared_types_have_no_problem(tmp_path: Path, line: str) -> None:
    assert said_of(tmp_path, line) == []


@pytest.mark.parametrize(
    ("line", "sentence", "hint"),
    [
        ('vllm_max_model_len: "8192"', '`vllm_max_model_len` is "8192" (a string), but must be an integer', "quotes"),
        ("vllm_max_model_len: true", "is true (a boolean), but must be an integer", "write an integer"),
        ("vllm_max_model_len: 1.5", "is 1.5 (a number), but must be an integer", "write an integer"),
        ("vllm_max_model_len:", "is empty, but must be an integer", "or remove the line"),
        ("vllm_share: true", "is true (a boolean), but must be a number", "write a number"),
        ("vllm_eager: 1", "is 1 (an integer), but must be true or false", "write true or false"),
        ('vllm_eager: "yes"', 'is "yes" (a string), but must be true or false', "without quotes"),
        ("vllm_dtype: 32", "is 32 (an integer), but must be a string", "in quotes"),
        ("vllm_root: [a]", 'is ["a"] (a list), but must be a path', "in quotes"),
        ("vllm_flags: --eager", "but must be a list", "write a list"),
        ("vllm_flags: [a, 1]", "`vllm_flags[1]` is 1 (an integer), but must be a string", "in quotes"),
        ("vllm_tiers: [ram]", '`vllm_tiers[0]` is "ram" (a string), but must be a mapping', "write a mapping"),
        ("vllm_levels: [1, 3]", "`vllm_levels` cannot be 3 (an integer)", "it is one of 1, 2"),
        ("vllm_dtype: flaot32", '`vllm_dtype` cannot be "flaot32"', "did you mean float32?"),
        ("vllm_tiers: [{kind: tape}]", '`vllm_tiers[0].kind` cannot be "tape"', 'it is one of "ram", "disk"'),
        ("vllm_tiers: [{kind: ram, sizegb: 1}]", "`vllm_tiers[0]` has no option `sizegb`", "did you mean `size_gb`?"),
        ("vllm_tiers: [{size_gb: 1}]", "`vllm_tiers[0]` lacks its option `kind`", "add it"),
        ('vllm_dtype: "{{ x }}"', "`vllm_dtype` has Jinja, which presets have not: {{ x }}", "write the value itself"),
        ("vllm_extra: {a: ['{% if x %}']}", "`vllm_extra` has Jinja", "write the value itself"),
    ],
)
def test_a_value_that_is_not_of_its_type_is_told_with_what_to_write(
    tmp_path: Path, line: str, sentence: str, hint: str
) -> None:
    (said,) = said_of(tmp_path, line)
    assert said.startswith("inventories/group_vars/cpu.yml:1: ")
    assert sentence in said.split(" | ")[0]
    assert hint in said.split(" | ")[1]


def test_a_secret_of_the_wrong_type_is_not_printed(tmp_path: Path) -> None:
    (said,) = said_of(tmp_path, "vllm_key: hunter2")
    assert "`vllm_key` is a string, but must be an integer" in said
    assert "hunter2" not in said


def test_every_problem_of_every_preset_is_told_at_once(tmp_path: Path) -> None:
    root = checkout(tmp_path, {"cpu": "vllm_dtype: 1\nvllm_share: x\n", "mybox": "vlm_dtype: auto\n"})
    assert [problem.where for problem in check_presets(root)] == [
        "inventories/group_vars/cpu.yml:1",
        "inventories/group_vars/cpu.yml:2",
        "inventories/group_vars/mybox.yml:1",
    ]


# --- files that are no preset


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"---\n# nothing yet\n", "is empty"),
        (b"- a\n- b\n", "is not a mapping"),
        (b"just words\n", "is not a mapping"),
        (b"a: [1\nb: 2\n", "is not plain YAML: expected"),
        (b"a: !vault |\n  123\n", "could not determine a constructor for the tag '!vault' (line 1)"),
        (b"\xff\xfe\x00", "is not UTF-8 text (byte 0)"),
        (b"vllm_dtype: a\x00b\n", "is not plain YAML: "),
        (b"x" * (MAX_BYTES + 1), "is larger than 256 KiB"),
        (b"a: " + b"[" * 5000, "is not plain YAML: "),
        (b"vllm_extra: 2024-99-99\n", "is not plain YAML: "),
        (b"1: a\n", "has the key 1, which is no variable's name"),
        (b"vllm_dtype: auto\nvllm_eager: true\nvllm_dtype: x\n", ":3 sets `vllm_dtype` again, first set on line 1"),
        (b"vllm_extra:\n  a: 1\n  a: 2\n", ":3 sets `a` again, first set on line 2"),
        (b"vllm_extra: &x {a: 1}\nvllm_flags: *x\n", "is used again by an alias"),
        (b"vllm_extra: &x [*x]\n", "is used again by an alias"),
        (b"vllm_extra: {<<: {a: 1}}\n", "merges another mapping"),
        (b"two: 1\n---\ndocuments: 1\n", "is not plain YAML: "),
    ],
)
def test_a_file_that_is_no_preset_says_what_it_is(tmp_path: Path, content: bytes, sentence: str) -> None:
    root = one_preset(tmp_path, "{}")
    (root / "inventories/group_vars/cpu.yml").write_bytes(content)
    (problem,) = check_presets(root)
    assert problem.message.startswith("inventories/group_vars/cpu.yml")
    assert sentence in problem.message
    assert problem.hint
    with pytest.raises(PresetError):
        load_preset(root, "cpu")


def test_a_directory_in_a_presets_place_says_so(tmp_path: Path) -> None:
    root = checkout(tmp_path, {}, "all: {children: {cpu: {}}}")
    (root / "inventories/group_vars/cpu.yml").mkdir()
    assert any("cpu.yml is a directory" in problem.message for problem in check_presets(root))


def test_an_unreadable_preset_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = one_preset(tmp_path, "{}")
    real = Path.open

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "cpu.yml":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refuse)
    (problem,) = check_presets(root)
    assert problem.message == "inventories/group_vars/cpu.yml cannot be read: Permission denied"


# --- groups and files


def test_a_group_without_a_file_says_which_to_write(tmp_path: Path) -> None:
    (problem,) = check_presets(checkout(tmp_path, {"cpu": "{}"}))
    assert problem.message == "the preset `mybox` has no file"
    assert problem.hint.startswith("write inventories/group_vars/mybox.yml")


def test_a_file_without_a_group_says_what_to_add(tmp_path: Path) -> None:
    (problem,) = check_presets(checkout(tmp_path, {"cpu": "{}", "mybox": "{}", "mybix": "{}"}))
    assert problem.message == "inventories/group_vars/mybix.yml belongs to no preset"
    assert "add `mybix: {}` to inventories/presets.yml" in problem.hint
    assert "did you mean `mybox`?" in problem.hint


@pytest.mark.parametrize("entry", ["cpu.yaml", "cpu.json", "cpu", "all.yml"])
def test_files_that_ansible_would_read_beside_a_preset_are_told(tmp_path: Path, entry: str) -> None:
    root = one_preset(tmp_path, "{}")
    (root / "inventories/group_vars" / entry).write_text("{}")
    (problem,) = check_presets(root)
    assert problem.message == f"inventories/group_vars/{entry} is no preset's file"


@pytest.mark.parametrize(
    ("hierarchy", "sentence"),
    [
        ("all: {children: {cpu: {hosts: {a: {}}}}}", "group `cpu` may have `children` and nothing else"),
        ("all: {children: {cpu: {vars: {a: 1}}}}", "group `cpu` may have `children` and nothing else"),
        ("all: {children: [cpu]}", "`children` of `all` is not a mapping"),
        ("all: {children: {../x: {}}}", "`../x` is no preset's name"),
        ("all: {children: {all: {}}}", "`all` is no preset's name"),
        ("all: {children: {a: {children: {b: {children: {a: {}}}}}}}", "puts a preset below itself"),
        ("cpu: {}", "must hold the one group `all`"),
        ("", "is empty"),
    ],
)
def test_the_hierarchy_holds_names_and_nothing_else(tmp_path: Path, hierarchy: str, sentence: str) -> None:
    with pytest.raises(PresetError) as caught:
        load_hierarchy(checkout(tmp_path, {}, hierarchy))
    assert sentence in caught.value.message
    assert caught.value.hint


# --- merging, and what is missing


def test_a_childs_value_replaces_its_parents_whole(tmp_path: Path) -> None:
    parent = "vllm_dtype: auto\nvllm_extra: {a: 1, b: 2}\n"
    preset = load_preset(checkout(tmp_path, {"cpu": parent, "mybox": "vllm_extra: {c: 3}\n"}), "mybox")
    assert preset.values == {"vllm_dtype": "auto", "vllm_extra": {"c": 3}}
    assert preset.parents == ("cpu",)
    assert {name: file.name for name, file in preset.sources.items()} == {
        "vllm_dtype": "cpu.yml",
        "vllm_extra": "mybox.yml",
    }


def test_a_required_variable_that_nobody_sets_is_missing_from_a_preset_that_is_otherwise_right(tmp_path: Path) -> None:
    root = one_preset(tmp_path, "{}")
    (root / "ansible").mkdir()
    (root / "ansible/site.yml").write_text("- {hosts: all, roles: [vllm, {role: model}]}\n")
    (problem,) = check_presets(root)
    assert problem.message == "the preset `cpu` has no `model_source`, which role `model` requires"
    (root / "inventories/group_vars/cpu.yml").write_text("model_source: x\n")
    assert check_presets(root) == []


@pytest.mark.parametrize(
    "play",
    [
        "{hosts: all, roles: [{role: model, when: x}]}",
        "{hosts: 'all:!cpu', roles: [model]}",
        "{hosts: other, roles: [model]}",
    ],
)
def test_what_a_role_requires_is_not_asked_where_the_role_may_not_run(tmp_path: Path, play: str) -> None:
    root = one_preset(tmp_path, "{}")
    (root / "ansible").mkdir()
    (root / "ansible/site.yml").write_text(f"- {play}\n")
    assert check_presets(root) == []


@pytest.mark.parametrize("place", ["roles/model/defaults/main.yml", "inventories/group_vars/all/wiring.yml"])
def test_what_a_role_requires_may_come_from_defaults_or_wiring(tmp_path: Path, place: str) -> None:
    root = one_preset(tmp_path, "{}")
    for name, text in (("ansible/site.yml", "- {hosts: all, roles: [model]}\n"), (place, "model_source: '{{ x }}'\n")):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    assert check_presets(root) == []


# --- the schema itself


def test_two_roles_cannot_declare_one_variable(tmp_path: Path) -> None:
    root = one_preset(tmp_path, "{}")
    (root / "roles/other/meta").mkdir(parents=True)
    (root / "roles/other/meta/argument_specs.yml").write_text(
        "argument_specs: {main: {options: {vllm_dtype: {type: str}}}}"
    )
    with pytest.raises(PresetError, match="`vllm_dtype` is declared by role vllm and by role other"):
        load_variables(root)


@pytest.mark.parametrize("spec", ["argument_specs: {}", "x: 1", "argument_specs: {main: {options: {a: {type: in}}}}"])
def test_a_spec_that_cannot_be_read_is_named(tmp_path: Path, spec: str) -> None:
    root = one_preset(tmp_path, "{}")
    (root / "roles/vllm/meta/argument_specs.yml").write_text(spec)
    with pytest.raises(PresetError, match=r"roles/vllm/meta/argument_specs.yml declares no variables"):
        load_variables(root)


# --- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["preset", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_show_prints_yaml_that_reads_back_with_the_file_behind_each_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "vllm_dtype": "auto",
        "vllm_root": "/a # b\n  c: 'd'\n",
        "vllm_extra": {"a": [1, {"b": None}], "c": "x: y"},
        "vllm_flags": ["--long " + "x" * 200],
    }
    root = checkout(tmp_path, {"cpu": yaml.safe_dump(values), "mybox": "vllm_eager: true\n"})
    status, out, _ = run(capsys, "--root", str(root), "show", "mybox")
    assert status == 0
    assert yaml.safe_load(out) == values | {"vllm_eager": True}
    assert "# mybox, which builds on cpu" in out
    assert "vllm_dtype: auto  # inventories/group_vars/cpu.yml" in out.splitlines()
    assert "vllm_eager: true  # inventories/group_vars/mybox.yml" in out.splitlines()


def test_show_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path, {"cpu": "vllm_dtype: auto", "mybox": "{}"})
    _, out, _ = run(capsys, "--root", str(root), "show", "mybox", "--json")
    assert json.loads(out) == {
        "preset": "mybox",
        "parents": ["cpu"],
        "values": {"vllm_dtype": "auto"},
        "sources": {"vllm_dtype": "inventories/group_vars/cpu.yml"},
    }


def test_list_puts_a_preset_below_the_one_it_builds_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path, {"cpu": "# No GPU.\n{}", "mybox": "{}"})
    assert run(capsys, "--root", str(root), "list")[1] == "cpu      No GPU.\n  mybox\n"


def test_an_unknown_preset_is_named_with_the_nearest_and_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout(tmp_path, {"cpu": "{}", "mybox": "{}"})
    status, out, err = run(capsys, "--root", str(root), "show", "mybax")
    assert (status, out) == (1, "")
    assert err == "error: there is no preset `mybax`\n\nhint: did you mean `mybox`? there are cpu, mybox\n"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "/etc/passwd", "cpu.yml", "cpu\n"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yml").write_text("vllm_dtype: auto")
    status, _, err = run(capsys, "--root", str(one_preset(tmp_path / "checkout", "{}")), "show", name)
    assert status == 1
    assert f"error: `{name}` is no preset's name\n\nhint: " in err


def test_check_tells_every_problem_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "--root", str(one_preset(tmp_path, "vllm_dtype: 1\nvlm_eager: true")), "check")
    assert status == 1
    assert err.startswith("error: 2 problems:\n- inventories/group_vars/cpu.yml:1: `vllm_dtype` is 1")
    assert err.endswith("\n\nhint: mend these, then run `infbox preset check`\n")


def test_check_names_what_it_found_no_problem_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path, {"cpu": "{}", "mybox": "vllm_dtype: 1"})
    assert run(capsys, "--root", str(root), "check", "cpu") == (0, "no problem in cpu\n", "")
    assert run(capsys, "--root", str(root), "check", "mybox")[0] == 1


def test_the_checkout_is_found_from_a_folder_inside_it(tmp_path: Path) -> None:
    root = one_preset(tmp_path, "{}")
    assert find_root(root / "roles/vllm") == root
