"""A converge that ends without an answer fails, and says what the engine said."""

from faulty_box import FaultyBox, message


def test_a_box_that_gives_no_answer_fails_with_the_engines_journal(converged: FaultyBox) -> None:
    converged.run("systemd-run --wait --unit=infbox-vllm echo the engine said this")
    said = message(converged.play(tags="smoke", skip="vllm", smoke_timeout_seconds=2))
    assert "engine_unavailable" in said or "503" in said
    assert "hint: journalctl -u infbox-vllm" in said
    assert "the engine said this" in said
