"""Checks of the assignments: answers as bytes, rules in words, typical mistakes, and what a student reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from coursework_fixture import cases, install

from ictl_utils import coursework, grading
from ictl_utils.answers import AnswerError, from_bytes, to_bytes
from ictl_utils.answers_sealed import Sealed, opened, plain_number, seal, sketched
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.grading import Case, Question, check, done, progress
from ictl_utils.grading_cases import first_broken, judge, run, tolerance_of
from ictl_utils.grading_rules import (
    agrees,
    array,
    between,
    causal,
    finite,
    holds,
    keys,
    number,
    of_each,
    rows_sum_to_one,
    seeds_decide,
    text,
)
from ictl_utils.grading_words import difference, word_count
from ictl_utils.handwritten import layout
from ictl_utils.model import Transformer

TREE = {
    "numbers": [1, -2.5, float("inf"), np.float32(0.5), np.int64(7)], "text": "ä \u2028 <b>", "flags": (True, None),
    (0, 1): torch.arange(6.0).reshape(2, 3), "np": np.eye(2, dtype=np.int32), "empty": torch.zeros(0, 3),
    "half": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor([1 + 2j]), "scalar": torch.tensor(3), 5: {},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def assignment(tmp_path_factory):
    """Assignment a8 of the fixture with its expected values, as if it came with the package."""
    from assignment_data import pack

    path = install("a8", tmp_path_factory.mktemp("root"))
    content, wrong = pack(coursework.questions("a8"), coursework.solutions(path))
    assert wrong == []
    known, real = coursework.unpacked(content), coursework.expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coursework, "expected", lambda name: known if name == "a8" else real(name))
        yield known


def right(q, k):
    near = (1 / (1 + torch.cdist(q, k))).tril()
    return near / near.sum(1, keepdim=True)


def test_answers_come_back_as_they_were():
    content = to_bytes(TREE)
    back = from_bytes(content)
    assert to_bytes(TREE) == to_bytes(back) == content
    assert list(back) == list(TREE) and back["flags"] == (True, None) and back["text"] == TREE["text"]
    assert torch.equal(back[(0, 1)], TREE[(0, 1)])
    assert isinstance(back["np"], np.ndarray) and back["np"].dtype == "int32"
    assert back["half"].dtype == torch.bfloat16 and back["c"].dtype == torch.complex64 and back["empty"].shape == (0, 3)
    assert back["numbers"] == [1, -2.5, float("inf"), 0.5, 7] and back["scalar"].shape == ()
    assert to_bytes(torch.ones(2, requires_grad=True)) == to_bytes(torch.ones(2))
    back["np"][0] = 5  # copies, not views of the bytes


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"a": {1, 2}}, r"its part \['a'\] is of class set.*sorted list"),
        (object(), "it is of class object; an answer is an array"),
        (np.array(["x"]), "dtype <U1; expected numbers"),
        (2**70, "more than 64 bits"),
        ("x" * 300_000, "300000 characters"),
        (list(range(30_000)), "more than 20000 parts"),
        (torch.zeros(9_000_000), "34.3 MiB; at most 32 MiB"),
    ],
)
def test_what_cannot_be_sent_is_named(answer, words):
    with pytest.raises(AnswerError, match=words):
        to_bytes(answer)


def test_deep_answers_and_rings_are_refused():
    ring: list = []
    ring.append(ring)
    with pytest.raises(AnswerError, match="nested deeper"):
        to_bytes(ring)


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\xff" * 99, to_bytes(TREE)[:200], to_bytes(1)[:-1] + b"}", bytes(9)]
)
def test_bytes_that_hold_no_answer_are_refused(content):
    with pytest.raises(AnswerError, match="hold no answer"):
        from_bytes(content)
    with pytest.raises(AnswerError, match="no answer; expected at most"):
        from_bytes(bytes(100), limit=50)


def test_hostile_trees_are_refused():
    from safetensors.numpy import save

    for tree in ("[" * 5000 + "]" * 5000, "[" * 30 + "]" * 30, '{"a": "9"}', '{"d": [[[1], 2]]}', "7x", "{}"):
        with pytest.raises(AnswerError):
            from_bytes(save({}, {"tree": tree}))


def test_sealed_answers_are_recognised_and_not_readable():
    answer = {"bug": "The sign", "heads": [1, 2.5], "yes": True, "none": None, "table": torch.eye(2)}
    packed = to_bytes(seal(answer, "a8.q2"))
    assert b"sign" not in packed and b"Sign" not in packed
    sealed = opened(from_bytes(packed), "a8.q2")
    assert difference(answer, sealed) is None
    assert difference({**answer, "bug": "the  SIGN ", "heads": (1.0, np.float64(2.50001))}, sealed) is None
    assert difference({**answer, "heads": torch.tensor([1, 2.5])}, sealed) is None
    for key, other in (("bug", "the size"), ("heads", [1, 2.6]), ("heads", [1]), ("yes", 1), ("none", 0), ("yes", "x")):
        assert difference({**answer, key: other}, sealed) is not None, (key, other)
    assert difference(3, sealed) and repr(sealed["bug"]) == "(not shown)" and isinstance(sealed["bug"], Sealed)
    big = opened(seal(12345.0, "x"), "x")
    assert big == 12345.5 and big != 12360
    with pytest.raises(AnswerError, match="at most 256 numbers"):
        seal(torch.zeros(300), "x")


def test_large_arrays_are_recognised_by_sketches():
    x = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    packed = {"a": [x, 3, "text"], "mask": x > 0, "nan": torch.full((100,), torch.nan)}
    content = to_bytes(sketched(packed))
    assert len(content) < 4000
    known = opened(from_bytes(content), "q")
    assert difference(packed, known) is None and difference({**packed, "a": [x + 1e-6, 3, "text"]}, known) is None
    other = x.clone()
    other[3, 4] += 0.5
    for wrong in ([other, 3, "text"], [x.T, 3, "text"], [-x, 3, "text"], [None, 3, "text"], [x, 4, "text"]):
        assert difference({**packed, "a": wrong}, known) is not None


SQUARE = torch.tensor([[1.0, 0.0], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("rule", "good", "bad", "words"),
    [
        (array((2, None), "float"), SQUARE, SQUARE[0], r"shape \(2,\); expected \(2, any\)"),
        (array(lambda given: (given["n"],)), np.zeros(2), [0.0, 0.0], r"a list of length 2; expected a tensor"),
        (array((2,), "int"), torch.tensor([1, 2]), torch.ones(2), "holds float numbers; expected int"),
        (array((2,), "bool"), np.array([True, False]), np.ones(2, int), "holds int numbers; expected bool"),
        (finite(), {"x": [1.0, SQUARE]}, {"x": [1.0, SQUARE / 0]}, r"4 of 4 numbers at \['x'\]\[1\] are inf or nan"),
        (finite(), {"x": 1.0}, {"x": float("nan")}, r"^the number at \['x'\] is inf or nan\.$"),
        (number(), np.float32(3), SQUARE, "a tensor of shape"),
        (number(), torch.tensor(2.0), True, "yours is True"),
        (text(3), "one two three", "one two", "has 2 words; expected at least 3"),
        (text(), "x", 5, "yours is 5; expected text"),
        (keys("a", "b"), {"b": 1, "a": 2}, {"a": 1, "c": 2}, "missing: 'b'; unknown: 'c'"),
        (keys(["a"], of=str), {"a": "x"}, {"a": 3}, "the value of 'a' is 3"),
        (keys("a"), {"a": 1}, [1], "a list of length 1; expected a dict"),
        (rows_sum_to_one(), SQUARE, SQUARE.T, "row 0 sums to 1.25; expected 1"),
        (rows_sum_to_one(), SQUARE, SQUARE * torch.nan, "row 0 sums to nan"),
        (causal(), SQUARE[None], SQUARE.T[None], "position 0 attends to position 1, which comes later, with 0.25"),
        (between(0, 1), [0.5, SQUARE], {"a": 1.5}, r"1.5 at \['a'\] is outside of 0 to 1"),
        (holds("even", lambda given, x: x % 2 == 0), 4, 3, "it does not hold for yours"),
        (holds("even", lambda given, x: None if x % 2 == 0 else f"{x} is odd."), 4, 3, "3 is odd"),
        (agrees(), SQUARE, SQUARE + 0.1, "4 of 4 entries differ.\nyours\n"),
    ],
)  # fmt: skip
def test_rules_say_what_is_broken(rule, good, bad, words):
    expected = SQUARE if rule.tolerance else None
    assert rule.broken({"n": 2}, good, expected) is None
    found = rule.broken({"n": 2}, bad, expected)
    assert found and re.search(words, found), found


@pytest.mark.parametrize(
    ("yours", "expected", "words"),
    [
        (1.00001, 1.0, None), (3, 3.0, None), (torch.tensor([2.0]), 2.0, None),
        ([1, 2], torch.tensor([1.0, 2.0]), None),
        ((1, "A b"), [1, "a  B"], None), (np.nan, float("nan"), None), (1000.05, 1000.0, None), (True, True, None),
        (1.01, 1.0, "yours is 1.01; expected 1."), ([1], [1, 2], "has 1 entries; expected 2"),
        ({"a": 1}, {"b": 1}, "has the keys 'a'; expected 'b'"), ({"a": [1, 3]}, {"a": [1, 2]}, r"at \['a'\]\[1\] is 3"),
        ("x", "y", "is 'x'; expected 'y'"), ("x", 1.0, "is 'x'; expected 1"), (None, 1.0, "is None; expected 1"),
        (torch.zeros(9, 9), torch.eye(9), r"9 of 81 entries differ, the first at \(0, 0\): yours is 0, expected 1"),
        (torch.zeros(2), torch.zeros(3), r"has shape \(2,\); expected \(3,\)"),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 2j]), r"yours is 1\+1j; expected 1\+2j"),
        ({"a": 1}, torch.zeros(2), "a dict of length 1; expected a tensor"),
        (5, {"a": 1}, "yours is 5; expected a dict"),
        (5, [1, 2], "yours is 5; expected a list"),
    ],
)  # fmt: skip
def test_differences_in_words(yours, expected, words):
    found = difference(yours, expected)
    assert (found is None) == (words is None), found
    assert words is None or re.search(words, found), found


def test_a_right_answer(capsys):
    result = check("a8.q1", right)
    assert result and result.passed and result.broken == "" and done("a8.q1")
    said = capsys.readouterr().out
    assert said == result.message + "\n" and "all holds" in said and "rows sum to 1" in said
    assert check("a8.q2", {"looks": 2, "moves": "the ov circuit"})


def test_every_typical_mistake_gets_its_message(tmp_path, assignment):
    solved = coursework.solutions(install("a8", tmp_path))
    for name, solution in solved.items():
        assert len(solution.mistakes) == 4
        for mistake in solution.mistakes:
            result = check(name, mistake() if name == "a8.q2" else mistake)
            assert not result and result.broken == mistake.__name__
            assert mistake.__doc__ in result.message and "a typical mistake" in result.message


def test_a_notebook_switches_gradients_off_for_itself_only(tmp_path, assignment):
    path = install("a8", tmp_path)
    book = json.loads(path.read_text())
    first = next(c for c in book["cells"] if c["cell_type"] == "code")
    book["cells"].insert(0, {**first, "id": "set-up", "source": ["import torch\ntorch.set_grad_enabled(False)"]})
    path.write_text(json.dumps(book))
    coursework.solutions(path)
    assert torch.is_grad_enabled()


def changes_its_input(q, k):
    q *= 1
    q += 1
    return right(q, k)


def fails(q, k):
    wide = q @ k.T
    return wide @ q.T @ q.T


def leaves(q, k):
    sys.exit(3)


def tells_nothing(q, k):
    right(q, k)


@pytest.mark.parametrize(
    ("answer", "broken", "words"),
    [
        (changes_its_input, "inputs stay as they are", "your code alters q"),
        (fails, "an error", "in line {line} of `fails`: return wide @ q.T @ q.T"),
        (leaves, "an error", "SystemExit: 3"),
        (tells_nothing, "an answer comes back", "returns None"),
        (lambda q: q, "an error", "unexpected keyword argument 'k'"),
        (lambda q, k: {1}, "an answer is plain data", "class set"),
        (lambda q, k: right(q, k)[:, :1], "shape", 'case "five points"'),
        (lambda q, k: right(q, k) * torch.nan, "all numbers are finite", "25 of 25 numbers"),
        (lambda q, k: right(q, k) / 2, "rows sum to 1", "sums to 0.5"),
        (lambda q, k: right(k, q), "agrees with a worked case", "Hint: Divide by what?"),
        (lambda q, k: [], "shape", "a list of length 0"),
        (torch.ones(2, 2), "function or value", "Hand over the function without calling it"),
    ],
)
def test_wrong_answers_are_told_and_never_raise(answer, broken, words, capsys):
    result = check("a8.q1", answer)
    said = capsys.readouterr().out
    line = fails.__code__.co_firstlineno + 2
    assert not result and result.broken == broken and words.format(line=line) in said
    assert said.startswith("a8.q1: ") and said.count("\n") <= 17
    assert grading.RESULTS["a8.q1"] is result and "Traceback" not in said


def test_what_is_not_done_is_no_mistake(capsys):
    def stub(q, k):
        raise NotImplementedError("a8.q1: nearness is still to be written.")

    def leans_on_another(q, k):
        raise NotImplementedError("a8.q7: other is still to be written.")

    for name, answer in (("a8.q1", stub), ("a8.q2", None)):
        assert check(name, answer).message == f"{name}: not done yet."
    said = check("a8.q1", leans_on_another).message
    assert said == "a8.q1: not done yet. It uses a8.q7: other is still to be written."
    assert not check("a8.q2", lambda: 3) and "this is a function" in capsys.readouterr().out


def test_expected_values_of_value_questions_are_never_shown(capsys):
    for answer in (3, "x", {"moves": "x", "looks": 2}, {"moves": [1], "looks": torch.ones(2)}):
        assert not check("a8.q2", answer)
    assert "OV" not in capsys.readouterr().out


def test_random_numbers_are_seeded_and_the_students_own_stay():
    question = Question("a8.q9", "", "f", 1, 1, 1, cases, ())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = [run(question, lambda **given: (torch.rand(2), np.random.rand(2)), Case({})) for _ in range(2)]
    assert difference(drawn[0].value, drawn[1].value) is None and torch.equal(torch.get_rng_state(), before)


def test_models_as_inputs_are_copied_and_compared():
    model = Transformer(ModelConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=8, d_vocab=8)).requires_grad_(False)
    question = Question("a8.q9", "", "f", 1, 1, 1, cases, ())
    assert run(question, lambda model: 1.0, Case({"model": model})).changed == ()
    assert run(question, lambda model: model.W_E.zero_().sum(), Case({"model": model})).changed == ("model",)
    assert model.W_E.abs().sum() > 0


def test_a_rule_that_cannot_be_worked_out_is_broken():
    question = Question("a8.q9", "", "f", 1, 1, 1, cases, (rows_sum_to_one(),))
    finding = first_broken(question, [Case({})], [run(question, lambda: "text", Case({}))], [None])
    assert finding.rule == "rows sum to 1" and "cannot be worked out for yours" in finding.words


def test_progress_shows_the_state_of_every_question():
    grading.RESULTS.clear()
    check("a8.q1", right), check("a8.q2", None)
    table = progress("a8")
    assert [row[-1] for row in table.rows()] == ["done", "not tried"] and "12 of 20 points" in repr(table)
    check("a8.q2", {"moves": "<b>", "looks": 2})
    assert table.rows()[1][-1] == "agrees with a worked case" and "★★☆" in table._repr_html_()
    check("a8.q2", {"moves": "none", "looks": 2})
    assert table.rows()[1][-1] == "nobody" and table._repr_html_().count("<tr>") == 3


def test_unknown_names_are_refused():
    with pytest.raises(IctlError, match=r"no question 'a8.q7'; a8 has a8.q1, a8.q2"):
        check("a8.q7", right)
    for name in ("a77.q1", "../x.q1", "", "rules.q1"):
        with pytest.raises(IctlError, match=r"there is no (assignment|question)"):
            check(name, right)
    with pytest.raises(IctlError, match="no assignment 'zoo'"):
        progress("zoo")


def test_under_nbgrader_a_broken_rule_is_an_assertion(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert check("a8.q1", right)
    with pytest.raises(AssertionError, match="your code alters q"):
        check("a8.q1", changes_its_input)
    with pytest.raises(AssertionError, match="not done yet"):
        check("a8.q2", None)


def test_notebooks_show_the_message_once():
    assert check("a8.q1", right)._ipython_display_() is None


def test_checks_need_no_plotting():
    code = "import sys, ictl_utils.grading, ictl_utils.coursework; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"matplotlib", "circuitsvis", "IPython", "pandas", "sklearn"}.isdisjoint(loaded)


def test_other_names_of_arguments_are_taken_in_their_order():
    assert check("a8.q1", lambda first, second: right(first, second))
    assert check("a8.q1", lambda k, q: right(q, k))


def test_a_copy_is_named_for_arrays_and_tensors():
    assert "x.clone()" in check("a8.q1", changes_its_input).message
    assert "x.copy()" in check("a8.q1", changes_its_input).message


def test_one_call_for_each_seed():
    question = Question("a8.q9", "", "f", 1, 1, 1, cases, (of_each("seed", array((2,))), seeds_decide(np.array_equal)))
    case = Case({"seed": [3, 4, 3]}, each="seed")

    def told(answer):
        finding = judge(question, case, run(question, answer, case), None)
        return finding and finding.words

    assert told(lambda seed: np.random.default_rng(seed).random(2)) is None
    assert told(lambda seed: np.random.default_rng(0).random(2)) == "seeds 3 and 4 give the same answer."
    assert told(lambda seed: np.random.random(2)) == "seed 3 twice gives two answers."
    assert "expected (2,)" in told(lambda seed: np.zeros(seed))


def test_a_tensor_that_is_too_large_is_an_error_of_its_own():
    question, case = Question("a8.q9", "", "f", 1, 1, 1, cases, ()), Case({"x": torch.ones(20, 2)}, largest=100)
    assert run(question, lambda x: x.T @ x, case).raised == ""
    for answer in (lambda x: (x @ x.T).sum(), lambda x: torch.linalg.svd(x.double(), full_matrices=True)[1]):
        outcome = run(question, answer, case)
        assert outcome.raised == "TooLarge" and "shape (20, 20)" in outcome.words


def test_a_table_made_with_numpy_is_too_large_as_well():
    question = Question("a8.q9", "", "f", 1, 1, 1, cases, ())
    case = Case({"x": torch.ones(2000, 2)}, largest=2000**2 // 4)
    assert run(question, lambda x: (x.numpy().T @ x.numpy()).sum(), case).raised == ""
    outcome = run(question, lambda x: (x.numpy() @ x.numpy().T).sum(), case)
    assert outcome.raised == "TooLarge" and "arrays of 16" in outcome.words
    assert run(question, lambda x: 1 / 0, case).raised == "ZeroDivisionError" and not tracemalloc.is_tracing()


def test_memory_traced_before_is_not_the_answers():
    question = Question("a8.q9", "", "f", 1, 1, 1, cases, ())
    case = Case({"x": torch.ones(2000, 2)}, largest=2000**2 // 4)
    tracemalloc.start()
    try:
        _ = np.ones(10**6) + 1
        assert run(question, lambda x: (x.numpy().T @ x.numpy()).sum(), case).raised == "" and tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_words_are_counted_as_everybody_does():
    assert word_count("I said that a head is a head, and it is - well - one.") == 13
    assert word_count(None) == word_count(" ... ") == 0


# Answers to the assignments' own questions, on cases of another seed than the public ones.


def told_by(name, answer, *expected, seed=3):
    """Names of the rules that an answer breaks, a case each; "" where all hold."""
    question = coursework.question(name)
    made = question.cases(seed)
    outcomes = [run(question, answer, case) for case in made]
    findings = [judge(question, case, o, *(expected or (None,))) for case, o in zip(made, outcomes, strict=True)]
    return [finding.rule if finding else "" for finding in findings]


def probe(order, seeded=True):
    """An answer to a3.q4 whose blocks ``order(rng, ids, length, row)`` gives."""

    def repeated_probe(ids, n, length, repeats, seed):
        rng = np.random.default_rng(seed if seeded else 0)
        rows = np.stack([np.tile(order(rng, ids, length, row), repeats) for row in range(n)])
        return np.concatenate([np.zeros((n, 1), int), rows], axis=1)

    return repeated_probe


def test_a_probe_is_drawn_from_all_ids_by_its_seed():
    def choice(rng, ids, length, row):
        return rng.choice(ids, length, replace=False)

    assert set(told_by("a3.q4", probe(choice))) == {""}
    assert set(told_by("a3.q4", lambda **given: probe(choice)(**given).astype(np.uint16))) == {""}
    assert told_by("a3.q4", probe(choice, seeded=False)) == [""] * 4 + ["the seed decides"]
    turned = told_by("a3.q4", probe(lambda rng, ids, length, row: np.roll(ids, 3 * row + 2)[:length][::-1]))
    assert turned[1] == "a random order"
    few = told_by("a3.q4", probe(lambda rng, ids, length, row: rng.permutation(ids[:length])))
    assert few[0] == few[1] == "every row has a block of its own"


@pytest.mark.parametrize("as_number", [lambda x: x, lambda x: x.item(), lambda x: x.numpy()])
def test_eigenvalues_may_stay_complex(as_number, capsys):
    def copying_statistic(W_E, W_V, W_O, W_U):
        found = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
        sizes, order = found.abs().sort(descending=True)
        total = found[order].sum() / sizes.sum() if sizes.sum() else torch.zeros((), dtype=torch.complex64)
        return {"sizes": sizes, "statistic": as_number(total)}

    assert check("a1.q7", copying_statistic), capsys.readouterr().out
    assert plain_number(1 + 0.1j) is None


def test_an_output_that_overflows_is_not_the_token():
    rule = next(r for r in coursework.question("a2.q3").rules if r.name == "writes the token before into spare")
    for case in coursework.question("a2.q3").cases(0):
        d = layout(case.given["d_vocab"], case.given["n_ctx"]).d_model
        answer = {"W_QK": torch.zeros(d, d), "W_OV": torch.full((d, d), 3e38)}
        assert "nan" in rule.broken(case.given, answer, None)


def test_a_statistic_in_an_array_of_one_entry_is_a_number():
    rules = {name: next(r for r in coursework.question(name).rules if r.name == rule)
             for name, rule in (("a1.q7", "statistic between -1 and 1"), ("a3.q3", "sign"),
                                ("a3.q7", "a stretch of the run"))}  # fmt: skip
    assert rules["a1.q7"].broken({}, {"statistic": np.array([0.5])}, None) is None
    assert "sign is not" in rules["a3.q3"].broken({}, {"score": np.array([0.5])}, {"score": -0.5})
    given = {"tokens": np.array([0.0, 9.0])}
    assert rules["a3.q7"].broken(given, {"start": np.array([1.0]), "end": np.array([[2.0]])}, None) is None


LINES = dict(zip("ABCDEFGHIJ", ["sign", "fine"] * 5, strict=True))


@pytest.mark.parametrize("changes, held", [
    ({}, 5), ({"D": "sign"}, 4), ({"C": "Sign!"}, 4), ({"A": "fine", "B": "sign", "J": "sign"}, 3),
    (dict.fromkeys("ABCDEFGHIJ", "fine"), 0),
])  # fmt: skip
def test_two_lines_at_a_time_are_a_part_of_the_points(changes, held):
    assert told_by("a3.q9", LINES | changes, LINES).count("") == held
    assert tolerance_of(coursework.question("a3.q9")) > 0  # so that the right names come with the package, sealed


VERDICT = {"least": 0.2, "times": 3.0, "heads": [[3, 0], [4, 0], [4, 1]], "joint": 0.57, "se": 0.07,
           "controls": [-0.05, -0.07, -0.06], "holds": True, "limits": "one two " * 15}  # fmt: skip


@pytest.mark.parametrize("changes, rule", [
    ({}, ""), ({"joint": np.array([0.57]), "least": torch.tensor([0.2])}, ""), ({"limits": "a word " * 15}, ""),
    ({"limits": "one two " * 14 + "- -"}, "limits are named"),
    ({"joint": 0.0, "se": 0.29, "holds": False}, "the measured effect"),
    ({"joint": 0.5, "se": 0.26, "holds": False}, "the measured effect"),
    ({"controls": [0, 0]}, "effects of control sets"), ({"controls": [0.1, -50.0]}, "effects of control sets"),
    ({"least": float("nan"), "holds": False}, "all numbers are finite"),
    ({"controls": [0.1, float("inf")]}, "all numbers are finite"),
    ({"times": 1e9, "holds": False}, "a criterion that could fail"),
    ({"least": 40, "holds": False}, "a criterion that could fail"),
])  # fmt: skip
def test_numbers_of_the_verdict_are_possible_ones(changes, rule):
    assert told_by("a4.q9", VERDICT | changes) == [rule]
