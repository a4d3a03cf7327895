"""`llmctl run`: what runs, what is skipped and why, what is replaced and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmctl.cli.main import run as llmctl
from llmctl.errors import DataError, LlmctlError, UsageError
from llmctl.store import atomic
from llmctl.types import null_sink
from llmctl.verbs import Context, Output, Verb
from llmctl.workflows.recipe import run as workflow

RECIPE = """
preprocess: {inputs: [words.txt], task: lm, out: prepared}
train: {data: prepared, model: lstm, out: model, max_steps: 5}
generate: {model: ./model, prompt: [a], output: answers.jsonl}
"""


class Stages:
    """Verbs that make their output from their settings and inputs, and count how often they did."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails: dict[str, LlmctlError] = {}

    def __call__(self, name: str) -> Verb[Any]:
        kind = type(workflow.verb_of(name))
        counted: type[Any] = type(f"Counted{kind.__name__}", (_Counted, kind), {"stages": self})
        made: Verb[Any] = counted()
        return made


class _Counted:
    """What a verb reads and makes is its own; the work is a line of text."""

    name: str
    stages: Stages

    class Plan(NamedTuple):
        config: Any

    def check(self, config: Any, context: Context) -> Any:
        atomic.refuse_existing(_place(config), force=context.force)
        return _Counted.Plan(config)

    def check_early(self, config: Any) -> None:
        pass

    def run(self, plan: Any, context: Context) -> Output:
        config = plan.config
        if self.name in self.stages.fails:
            raise self.stages.fails[self.name]
        self.stages.ran.append(self.name)
        text = {
            "preprocess": lambda: Path("words.txt").read_text().lower(),
            "train": lambda: Path("prepared/made.txt").read_text() + str(config.max_steps),
            "generate": lambda: json.dumps({"text": Path("model/made.txt").read_text()}) + "\n",
        }[self.name]()
        if self.name == "generate":
            atomic.write_text(config.output, text)
            return Output({"completions": [{"text": "a"}], "seconds": 0.5})
        with atomic.atomic_folder(config.out, force=context.force) as folder:
            (folder / "made.txt").write_text(text)
        return Output({"out": str(config.out)})


def _place(config: Any) -> Path:
    place: Path = config.output if hasattr(config, "output") else config.out
    return place


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("Some Words\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def go(stages: Stages, *sets: str, force: bool = False) -> dict[str, tuple[str, str]]:
    """Run the recipe; status and why of each stage."""
    outcomes = workflow.run(workflow.load([Path("recipe.yaml")], sets=sets, verbs=stages), null_sink, force=force)
    return {outcome.verb: (outcome.status, outcome.why) for outcome in outcomes}


def test_stages_run_in_order_then_all_are_skipped(here: Path) -> None:
    stages = Stages()
    first = go(stages)
    assert stages.ran == ["preprocess", "train", "generate"]
    assert first["preprocess"] == ("ran", "prepared does not exist yet")
    second = go(stages)
    assert stages.ran == ["preprocess", "train", "generate"]
    assert {status for status, _ in second.values()} == {"skipped"}
    assert all(why.startswith("unchanged since 2") for _, why in second.values())


def test_the_document_of_a_skipped_stage_is_that_of_its_run(here: Path) -> None:
    stages = Stages()
    go(stages)
    [*_, generated] = workflow.run(workflow.load([Path("recipe.yaml")], verbs=stages), null_sink)
    assert generated.row()["document"] == {"completions": [{"text": "some words\n5"}], "seconds": 0.5}
    assert "completions" not in json.loads(Path("answers.jsonl.stage.json").read_text())["document"]


def test_a_changed_setting_runs_its_stage_and_those_after(here: Path) -> None:
    stages = Stages()
    go(stages)
    stages.ran.clear()
    again = go(stages, "train.max_steps=6")
    assert stages.ran == ["train", "generate"]
    assert again["preprocess"][0] == "skipped"
    assert again["train"] == ("ran", "changed: max_steps")
    assert again["generate"] == ("ran", "the input model changed")
    assert Path("model/made.txt").read_text() == "some words\n6"


def test_a_changed_input_runs_what_reads_it_and_no_further_than_it_matters(here: Path) -> None:
    stages = Stages()
    go(stages)
    stages.ran.clear()
    Path("words.txt").write_text("SOME WORDS\n")  # other bytes, the same prepared data
    again = go(stages)
    assert again["preprocess"] == ("ran", "the input words.txt changed")
    assert stages.ran == ["preprocess"]


def test_what_a_glob_in_a_folder_stands_for_is_its_input(here: Path) -> None:
    inputs = "preprocess.inputs=[./wor*.txt]"
    stages = Stages()
    go(stages, inputs)
    assert go(stages, inputs)["preprocess"][0] == "skipped"
    Path("words.txt").write_text("Other Words\n")
    assert go(stages, inputs)["preprocess"] == ("ran", "the input words.txt changed")
    Path("work.txt").write_text("More\n")
    assert go(stages, inputs)["preprocess"] == ("ran", "the input work.txt changed")


def test_a_touched_file_of_the_same_content_changes_nothing(here: Path) -> None:
    stages = Stages()
    go(stages)
    os.utime("words.txt", (1, 1))
    assert {status for status, _ in go(stages).values()} == {"skipped"}


def test_what_run_did_not_make_is_refused_and_kept(here: Path) -> None:
    Path("model").mkdir()
    Path("model/mine.txt").write_text("mine")
    stages = Stages()
    with pytest.raises(UsageError, match="the output model exists"):
        go(stages)
    assert stages.ran == [], "found before the first stage ran"
    assert Path("model/mine.txt").read_text() == "mine"


def test_an_output_changed_by_hand_is_refused_and_replaced_with_force(here: Path) -> None:
    stages = Stages()
    go(stages)
    Path("prepared/made.txt").write_text("edited")
    with pytest.raises(UsageError, match="the output prepared exists"):
        go(stages)
    assert Path("prepared/made.txt").read_text() == "edited"
    assert go(stages, force=True)["preprocess"] == ("ran", "--force")
    assert Path("prepared/made.txt").read_text() == "some words\n"


def test_a_missing_output_is_made_again(here: Path) -> None:
    stages = Stages()
    go(stages)
    stages.ran.clear()
    Path("answers.jsonl").unlink()
    go(stages)
    assert stages.ran == ["generate"]


TWO_RUNS = """
preprocess: {inputs: [words.txt], task: lm, out: prepared}
train:
  - {data: prepared, model: lstm, out: plain, max_steps: 5, seed: 3}
  - {data: prepared, model: plain, out: then, max_steps: 6}
generate: {model: then, prompt: [a], output: answers.jsonl}
"""


def test_a_verb_with_a_list_of_blocks_runs_them_in_their_order(here: Path) -> None:
    (here / "recipe.yaml").write_text(TWO_RUNS)
    stages = workflow.load([here / "recipe.yaml"])
    assert [each.verb.name for each in stages] == ["preprocess", "train", "train", "generate"]
    plain, then, answers = (each.config for each in stages[1:])
    assert (plain.max_steps, then.max_steps) == (5, 6)
    assert then.model.name == "./plain", "a run of this recipe, not an architecture"
    assert answers.model == "./then"


def test_set_means_every_block_of_a_list_or_the_one_it_numbers(here: Path) -> None:
    (here / "recipe.yaml").write_text(TWO_RUNS)
    sets = ["train.max_steps=9", "train.1.max_steps=8", "train.0.model.layers=2"]
    plain, then = (each.config for each in workflow.load([here / "recipe.yaml"], sets=sets)[1:3])
    assert (plain.max_steps, then.max_steps, plain.model.layers, then.model.layers) == (9, 8, 2, None)
    (here / "more.yaml").write_text("train: [{lr: 0.1}, {lr: 0.2}]\npreprocess: {seed: 4}\n")
    rates = [each.config.optimizer.lr for each in workflow.load([here / "recipe.yaml", here / "more.yaml"])[1:3]]
    assert rates == [0.1, 0.2]


@pytest.mark.parametrize(
    ("more", "sets", "said"),
    [
        ("", ["train.2.max_steps=1"], "train.2.max_steps: no such block: the recipe has 2"),
        ("", ["train.1.max_stepz=1"], "train.1.max_stepz: unknown key; did you mean 'max_steps'"),
        (
            "",
            ["train.1.out=./plain", "generate.model=plain"],
            "train: two blocks write to plain; give each its own `out`",
        ),
        ("train: [{}, {}, {}]", [], "overrides 2 blocks with 3"),
    ],
)
def test_what_is_wrong_in_a_list_of_blocks_is_named(more: str, sets: list[str], said: str, here: Path) -> None:
    (here / "recipe.yaml").write_text(TWO_RUNS)
    (here / "more.yaml").write_text(more or "generate: {seed: 0}")
    with pytest.raises(LlmctlError) as told:
        workflow.load([here / "recipe.yaml", here / "more.yaml"], sets=sets)
    assert said in str(told.value)


def test_a_verb_by_itself_takes_one_block(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "recipe.yaml").write_text(TWO_RUNS)
    assert llmctl(["train", "--config", "recipe.yaml"]) == 2
    assert (
        "train: recipe.yaml has 2 blocks of this verb; llmctl run recipe.yaml runs them in order"
        in capsys.readouterr().err
    )


def test_a_failing_stage_ends_the_run_with_its_error_and_tells_all_stages(here: Path) -> None:
    stages = Stages()
    stages.fails["train"] = DataError("no words")
    with pytest.raises(DataError) as caught:
        go(stages)
    assert [(row["verb"], row["status"]) for row in caught.value.document["stages"]] == [
        ("preprocess", "ran"),
        ("train", "failed"),
    ]
    stages.fails.clear()
    assert go(stages)["preprocess"][0] == "skipped"


def test_a_stage_that_failed_says_its_error_and_not_why_it_ran(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("real.yaml").write_text(REAL)
    Path("words.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "c"}\n')
    assert llmctl(["run", "real.yaml", "--set", "preprocess={inputs: [words.jsonl], task: lm}"]) == 3
    assert "preprocess  failed: words.jsonl:2: not valid JSON" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["train.out=old/new"], "old/new lies inside the run "),
        (["train.out=prepared/run"], "the output prepared/run lies inside the input prepared"),
        (["train.model=./nothere"], "train: no such file or folder: nothere"),
        (["eval.data=nothere.jsonl"], "eval: no such file or folder: nothere.jsonl"),
        (["eval.require=[perplexity<<1]"], "perplexity<<1"),
    ],
)
def test_nothing_is_prepared_where_a_later_stage_cannot_start(
    sets: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("real.yaml").write_text(REAL)
    Path("old").mkdir()
    Path("old/run.json").write_text("{}")
    before = sorted(here.rglob("*"))
    assert llmctl(["run", "real.yaml", *(word for each in sets for word in ("--set", each))]) == 2
    assert said in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_a_run_inside_a_run_of_the_same_recipe_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.yaml").write_text(
        "preprocess: {inputs: [words.txt], task: lm, out: p}\n"
        "train: [{data: p, model: lstm, out: r}, {data: p, model: rnn, out: r/second}]\n"
    )
    assert llmctl(["run", "two.yaml"]) == 2
    assert "train.out: r/second is inside the run r" in capsys.readouterr().err


def test_a_stage_killed_before_its_record_was_written_runs_again(here: Path) -> None:
    stages = Stages()
    go(stages)
    Path("prepared/stage.json").unlink()
    Path(".llmctl-prepared-stage").write_text("1\n")
    assert go(stages)["preprocess"] == ("ran", "the stage that made prepared did not finish")
    assert not Path(".llmctl-prepared-stage").exists()


def test_dry_run_says_what_would_happen_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    assert llmctl(["run", "recipe.yaml", "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["stages"]
    assert [(row["verb"], row["status"]) for row in rows] == [
        (verb, "runs") for verb in ("preprocess", "train", "generate")
    ]
    assert rows[1]["why"] == "preprocess recreates its input"
    assert sorted(here.rglob("*")) == before


def test_dry_run_says_what_would_be_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("model").mkdir()
    Path("model/mine.txt").write_text("mine")
    assert llmctl(["run", "recipe.yaml", "--dry-run"]) == 0
    assert "train       refused" in capsys.readouterr().out


def test_faults_of_every_block_come_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(
        "preprocess: {inputs: [words.txt], out: p, cleen: {}}\n"
        "train: {data: p, model: {name: gpt2, layrs: 3}, out: r}\n"
        "quickstart: {seed: 1}\n"
    )
    assert llmctl(["run", "recipe.yaml", "--set", "trian.lr=1", "--set", "max_steps=3", "--set", "eval.limit=1"]) == 2
    assert capsys.readouterr().err.removeprefix("error: ").splitlines() == [
        "quickstart: cannot be a stage of a recipe; llmctl quickstart --config recipe.yaml",
        "trian.lr: 'trian' is not a stage; did you mean 'train'?",
        "max_steps: 'max_steps' is not a stage; did you mean train.max_steps?",
        "eval.limit: the recipe has no stage eval; its stages: preprocess, train",
        "preprocess.cleen: unknown key; did you mean 'clean'?",
        "train.model.layrs: unknown key; did you mean 'layers'?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "recipe.yaml has no stage"),
        ("", "the recipe is empty"),
        ("- 1", "a recipe must be a mapping"),
        ("train: {a: !!python/name:os.system x}", "not valid YAML"),
    ],
)
def test_what_is_no_recipe_is_refused(here: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    Path("recipe.yaml").write_text(text)
    assert llmctl(["run", "recipe.yaml"]) == 2
    assert message in capsys.readouterr().err


def test_seed_is_every_stages(here: Path) -> None:
    assert [each.config.seed for each in workflow.load([Path("recipe.yaml")], seed=7)] == [7, 7, 7]


def test_a_later_file_is_laid_upon_the_recipe(here: Path) -> None:
    Path("more.yaml").write_text("train: {max_steps: 9}\n")
    [_, train, _] = workflow.load([Path("recipe.yaml"), Path("more.yaml")])
    assert (train.config.max_steps, str(train.config.data)) == (9, "prepared")


REAL = """
preprocess: {inputs: [sonnets], out: prepared, tokenizer: char, block_size: 64}
train: {data: prepared, model: {name: lstm, hidden: 16, embedding: 16}, out: runs/poet, max_steps: 3, batch_size: 4}
generate: {model: runs/poet, prompt: [Shall I], max_new_tokens: 8}
eval: {model: runs/poet, data: prepared, limit: 2}
"""


def test_the_verbs_themselves(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("real.yaml").write_text(REAL)
    assert llmctl(["run", "real.yaml", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "llmctl.run/1"
    assert [row["status"] for row in document["stages"]] == ["ran"] * 4
    assert document["stages"][1]["document"]["steps"] == 3
    scores = document["stages"][3]["document"]["scores"]
    assert [score["metric"] for score in scores] == ["perplexity", "bits_per_byte"]
    assert json.loads(Path("runs/poet/evals/real-test/scores.json").read_text())["scores"] == scores

    assert llmctl(["run", "real.yaml", "--json", "--quiet", "--set", "eval.require=[perplexity<1]"]) == 10
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["kind"] == "gate"
    assert [row["status"] for row in document["stages"]] == ["skipped", "skipped", "ran", "failed"]
    assert document["stages"][3]["error"]["kind"] == "gate"
    assert document["stages"][3]["document"]["gates"][0]["met"] is False

    assert llmctl(["run", "real.yaml", "--set", "eval.require=[perplexity<1]"]) == 10
    told = capsys.readouterr()
    assert "eval        gate not met\n" in told.out, "not the reason why it ran"
    assert "skipped" in told.out
    assert "skipped" not in told.err, "once is enough"

    assert llmctl(["run", "real.yaml", "--quiet"]) == 0, "a gate that was not met leaves nothing in the way"
    assert "skipped" in capsys.readouterr().out


def test_scores_that_run_did_not_make_keep_a_run_from_being_replaced(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("real.yaml").write_text(REAL.split("generate")[0])
    assert llmctl(["run", "real.yaml", "--quiet"]) == 0
    mine = Path("runs/poet/evals/mine")
    mine.mkdir(parents=True)
    (mine / "scores.json").write_text("{}")
    assert llmctl(["run", "real.yaml", "--quiet", "--set", "train.max_steps=4"]) == 2
    assert "the output runs/poet exists" in capsys.readouterr().err
    assert (mine / "scores.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 75), (signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_an_interrupted_train_stage_goes_on(here: Path, number: signal.Signals, code: int) -> None:
    Path("real.yaml").write_text(
        REAL.split("generate")[0].replace("max_steps: 3", "max_steps: 200, save_every: 20, eval_every: 100")
    )
    words = ["run", "real.yaml", "--set", "train.batch_size=4", "--json"]
    command = [sys.executable, "-m", "llmctl", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(Path("runs").glob("poet/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == code
    if code == 75:
        document = json.loads(stdout)
        assert document["stages"][1]["error"]["kind"] == "stopped"
        assert document["error"]["hint"] == "to continue: llmctl run real.yaml --set train.batch_size=4"
    done = subprocess.run(command, capture_output=True, check=True)
    prepared, train = json.loads(done.stdout)["stages"]
    assert prepared["status"] == "skipped"
    assert train["why"].startswith("it was interrupted")
    assert train["document"]["steps"] == 200
    assert train["document"]["resumed_from"]
