"""Recipes that cannot be carried out: YAML's traps, unknown keys, values out of range, wrong parts."""

from __future__ import annotations

from tests.faults.trying import Case

ROWS = "".join(f'{{"prompt": "say {n}", "response": "it is {n * 7}"}}\n' for n in range(8))


def recipe(
    text: str = "", head: str = "model: {model}\ndata: {train: '{dir}/rows.jsonl'}\noutput: '{dir}/run'\n"
) -> str:
    """A recipe that is good but for `text`."""
    return head + text + "\n"


def case(
    name: str, text: str, where: str, what: str, fix: str = ".", words: str = "plan {dir}/r.yaml", **more
) -> Case:
    """A recipe whose text is bad; the code is recipe unless said otherwise."""
    head = more.pop("head", None)
    code = more.pop("code", "recipe")
    whole = recipe(text) if head is None else recipe(text, head)
    return Case(name, words, code, where, what, fix, files={"r.yaml": whole, "rows.jsonl": ROWS}, **more)


def key(text: str, where: str, what: str, fix: str = ".", **more) -> Case:
    """Named after its text."""
    return case(text.replace("{", "").replace("}", "")[:60], text, where, what, fix, **more)


HEADLESS = {"head": ""}
CASES = [
    # ---- YAML ----
    case("no file", "", "nothing.yaml", "", words="plan {dir}/nothing.yaml"),
    case("a folder for a recipe", "", "", "", words="plan {dir}"),
    case("an empty file", "", "", "", **HEADLESS),
    case("a list for a recipe", "- model\n- data\n", "", "", **HEADLESS),
    case("a word for a recipe", "hello", "", "", **HEADLESS),
    case("a bracket left open", "tuning: {method: lora", "r.yaml:", ""),
    case("a tab for indentation", "tuning:\n\tmethod: lora", "r.yaml:", "", "tab"),
    case("a key twice", "seed: 1\nseed: 2", "", "twice|duplicate|again"),
    case("a key twice inside", "optim: {lr: 1, lr: 2}", "", "twice|duplicate|again"),
    case("a python object", "seed: !!python/object/apply:os.system ['true']", "", ""),
    case("an unknown anchor", "seed: *nothing", "r.yaml:", ""),
    case("two documents", "---\nseed: 1\n---\nseed: 2\n", "", "", **HEADLESS),
    case("anchors that grow", "a: &a [1,1]\nb: &b [*a,*a]\nseed: 1", "", ""),
    case("deep nesting", "tuning: " + "[" * 3000 + "]" * 3000, "", ""),
    case("not UTF-8", "", "", "", words="plan {dir}/b.yaml"),
    # ---- keys ----
    key("leraning_rate: 1", "leraning_rate", "", "optim.lr"),
    key("learning_rate: 2e-4", "learning_rate", "", "optim.lr"),
    key("optim: {lrr: 1}", "optim.lrr", "", "lr"),
    key("tuning: {method: lora, rnak: 8}", "tuning.*rnak", "", "rank"),
    key("tuning: {method: lroa}", "tuning.method", "", "lora"),
    key("tuning: {rank: 8}", "tuning", ""),
    key("tuning: {method: full, rank: 8}", "tuning.*rank", ""),
    key("objective: dpo", "objective", "", ""),
    key("objective: {kind: dpo, beta: 0.1}", "objective", "", ""),
    key("optim: [1, 2]", "optim", ""),
    key("1: 2", "1", ""),
    # ---- values ----
    key("optim: {lr: 3e-4x}", "optim.lr", ""),
    key("optim: {lr: 0}", "optim.lr", ""),
    key("optim: {lr: -1}", "optim.lr", ""),
    key("optim: {lr: .nan}", "optim.lr", ""),
    key("optim: {lr: .inf}", "optim.lr", ""),
    key("optim: {lr: true}", "optim.lr", ""),
    key("optim: {lr: 1e400}", "optim.lr", ""),
    key("optim: {lr: null}", "optim.lr", ""),
    key("optim: {schedule: cosin}", "optim.schedule", "", "cosine"),
    key("optim: {warmup: 1.5}", "optim.warmup", ""),
    key("optim: {warmup: -1}", "optim.warmup", ""),
    key("optim: {batch_tokens: 0}", "optim.batch_tokens", ""),
    key("optim: {batch_tokens: 1.5}", "optim.batch_tokens", ""),
    key("optim: {batch_tokens: many}", "optim.batch_tokens", ""),
    key("optim: {weight_decay: -0.1}", "optim.weight_decay", ""),
    key("optim: {grad_clip: 0}", "optim.grad_clip", ""),
    key("optim: {optimizer: adam}", "optim.optimizer", ""),
    key("budget: {epochs: 0}", "budget", ""),
    key("budget: {epochs: .inf}", "budget", ""),
    key("budget: {steps: 0}", "budget", ""),
    key("budget: {steps: 1.5}", "budget", ""),
    key("budget: {steps: 5, epochs: 1}", "budget", ""),
    key("budget: 3", "budget", ""),
    key("seed: -1", "seed", ""),
    key("seed: 1.5", "seed", ""),
    key("seed: 340282366920938463463374607431768211456", "seed", ""),
    key("compute: {precision: fp16}", "compute.precision", ""),
    key("compute: {micro_tokens: 0}", "compute.micro_tokens", ""),
    key("checkpoint: {keep: 0}", "checkpoint.keep", ""),
    key("checkpoint: {every: 0}", "checkpoint.every", ""),
    key("evaluation: {every: 1.5}", "evaluation.every", ""),
    key("sharding: {devices: 8}", "sharding.devices", ""),
    key("track: [nobody]", "track", ""),
    key("track: 7", "track", ""),
    case("no name for the output", "", "output", "", words="plan {dir}/r.yaml output="),
    case("a list for the output", "", "output", "", words="plan {dir}/r.yaml output=[a]"),
    key("model: {path: x, from_config: {}}", "model", "", **HEADLESS),
    key("model: {dtype: fp8, path: x}", "model.dtype", "", **HEADLESS),
    key("tuning: {method: lora, rank: 0}", "tuning.*rank", ""),
    key("tuning: {method: lora, rank: -8}", "tuning.*rank", ""),
    key(
        "tuning: {method: lora, rank: 99999999}",
        "plan",
        "GiB",
        words="train {dir}/r.yaml",
        code="out_of_memory",
    ),
    key("tuning: {method: lora, dropout: 1.5}", "tuning.*dropout", ""),
    key("tuning: {method: lora, targets: [nothing_here]}", "tuning.*targets", ""),
    key("tuning: {method: lora, base: nf5}", "tuning.*base", ""),
    key("tuning: {method: freeze, last_layers: 99}", "tuning.*last_layers", ""),
    key("evaluation: {tasks: [{name: a, kind: choice, path: nothing.jsonl}]}", "", "", code="data"),
    key("evaluation: {tasks: [{name: ../x, kind: choice, path: a}]}", "evaluation.tasks", ""),
    key("evaluation: {tasks: [{name: a, kind: chioce, path: a}]}", "evaluation.tasks", ""),
    key("evaluation: {probes: [7]}", "evaluation.probes", ""),
    # ---- data section ----
    case("no train files", "model: m\ndata: {train: []}", "data.train", "", **HEADLESS),
    case("no data at all", "model: m", "data", "", **HEADLESS),
    case("no model at all", "data: {train: a.jsonl}", "model", "", **HEADLESS),
    case(
        "a weight of 0",
        "model: m\ndata: {train: [{path: a, weight: 0}]}",
        "data.train.*weight",
        "",
        **HEADLESS,
    ),
    case(
        "a format unheard of",
        "model: m\ndata: {train: [{path: a, format: shargpt}]}",
        "data.train.*format",
        "",
        "sharegpt",
        **HEADLESS,
    ),
    case("max_length 0", "model: m\ndata: {train: a, max_length: 0}", "data.max_length", "", **HEADLESS),
    case("validation -1", "model: m\ndata: {train: a, validation: -1}", "data.validation", "", **HEADLESS),
    case(
        "validation of everything", "", "data", "", words="plan {dir}/r.yaml data.validation=8", code="data"
    ),
    case("validation by 1.0", "", "data", "1.0", words="plan {dir}/r.yaml data.validation=1.0"),
    case(
        "a template nobody has",
        "",
        "data.template",
        "chatlm",
        "chatml",
        words="plan {dir}/r.yaml data.template=chatlm",
    ),
    case("overlength misspelt", "", "data.overlength", "", words="plan {dir}/r.yaml data.overlength=cut"),
    case(
        "all problems at once",
        "seed: x\noptim: {lr: -1}\ntuning: {method: lora, rnak: 1}\nleft: 1",
        "seed",
        "",
        problems=4,
    ),
    # ---- words on the command line ----
    case("an override without =", "", "", "", words="plan {dir}/r.yaml optim.lr"),
    case("an override of nothing", "", "", "", words="plan {dir}/r.yaml =3"),
    case("an override into a value", "", "seed", "", words="plan {dir}/r.yaml seed.deep=3"),
    case("an override of an unknown key", "", "optim.rate", "", words="plan {dir}/r.yaml optim.rate=3"),
    case("an override that is no YAML", "", "", "", words="plan {dir}/r.yaml optim.lr=[1"),
    case(
        "an override of a list item that is not there",
        "",
        "data.train",
        "",
        words="plan {dir}/r.yaml data.train.7.path=x",
    ),
]
