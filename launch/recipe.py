"""What a gin recipe says about a whole run, and the names of its stages in order."""

import dataclasses
import pathlib

from etils import epath

import humpback_jax
from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError

BACKWARD = "Myx"


@configurable
@dataclasses.dataclass(frozen=True)
class Recipe:
    """The inputs and the outline of a run.

    Paths may hold {run_dir} and {package} (the folder of the installed humpback_jax).

    Attributes:
      run_dir: where every stage has its folder, local or gs://.
      corpus: pattern(s) of the web pages' files, separated by commas.
      seed: Open Assistant export (messages or trees) or JSONL of {instruction, output}.
      base: Hugging Face folder of the base model; with `pretrain`, where the run writes it.
      num_shards: files into which segments, candidates and ratings are divided.
      iterations: rounds of curating and training; the paper's 2 end with M2.
      arms: further models to train for comparison, each configured under its name as scope.
      evaluate: names of the models to evaluate; () means M0 to the last M and the arms.
      world: write the microworld's files into {run_dir}/world first.
      pretrain: train the base model in this run (Pretraining), for trials without a LLaMA.
      questions: microworld questions (JSONL) that measure a model's accuracy.
      labels: microworld labels (JSONL) that measure curation.
      prompts: JSONL of {instruction} that every evaluated model answers, for the report.
      validation: pairs like `seed` whose loss is measured while a model trains, every
        TrainConfig.eval_period steps; they are trained on by none.
      replay: JSONL of {text}, the base's pretraining text, for TrainConfig.replay_rate.
      inference_dtype: of inference, "bfloat16" on TPU and GPU; "" keeps the model's.
    """

    run_dir: str
    corpus: str
    seed: str
    base: str
    num_shards: int = 8
    iterations: int = 2
    arms: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    world: bool = False
    pretrain: bool = False
    questions: str = ""
    labels: str = ""
    prompts: str = ""
    validation: str = ""
    replay: str = ""
    inference_dtype: str = ""

    def __post_init__(self):
        if self.run_dir == "":
            raise UsageError("RUN_DIR is empty: give the folder of the run, local or gs://")
        if self.num_shards < 1 or self.iterations < 0:
            raise UsageError(
                f"Recipe has {self.num_shards} shards and {self.iterations} iterations: give at "
                "least 1 shard and 0 iterations"
            )
        for name in ("arms", "evaluate"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise UsageError(f"Recipe.{name} is {value!r}: write ({value!r},)")
        clash = {"world", "pretrain", "drivers", *self._loop}.intersection(self.arms)
        if clash or len(set(self.arms)) < len(self.arms):
            raise UsageError(
                f"Recipe.arms is {self.arms}: name each arm once, and none as a stage of the loop"
            )

    @property
    def root(self) -> epath.Path:
        return epath.Path(self.run_dir)

    def path(self, text: str) -> str:
        """Returns a path with its placeholders filled in."""
        package = pathlib.Path(humpback_jax.__file__).parent
        return text.replace("{run_dir}", self.run_dir).replace("{package}", str(package))

    @property
    def forward_models(self) -> tuple[str, ...]:
        """M0, M1, ... of the loop."""
        return tuple(f"M{i}" for i in range(self.iterations + 1))

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the run finetunes."""
        return (BACKWARD, *self.forward_models, *self.arms)

    @property
    def evaluated(self) -> tuple[str, ...]:
        return self.evaluate or (*self.forward_models, *self.arms)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the loop in the order in which they run."""
        before = ("world",) if self.world else ()
        *loop, evaluate, report = self._loop
        return (*before, *loop, *self.arms, evaluate, report)

    @property
    def _loop(self) -> tuple[str, ...]:
        base = ("pretrain", "base") if self.pretrain else ("base",)
        loop = ["segment", "seed", *base, BACKWARD, "augment", "M0"]
        for t in range(1, self.iterations + 1):
            loop += [f"curate{t}", f"M{t}"]
        return (*loop, "evaluate", "report")


@configurable
@dataclasses.dataclass(frozen=True)
class Arm:
    """Which examples train a forward model; M_t and the arms of a comparison are all of these.

    How candidates are chosen is the SelectionConfig of the same scope.

    Attributes:
      use_seed: the seed pairs are among them.
      use_augmented: selected candidates are among them; M0 has none, whatever is bound.
      iteration: whose ratings choose the candidates; 0 means t for M_t and the last one for an
        arm.
      same_count_as: name of a model whose number of augmented examples is not exceeded.
    """

    use_seed: bool = True
    use_augmented: bool = True
    iteration: int = 0
    same_count_as: str = ""


@configurable
@dataclasses.dataclass(frozen=True)
class Pretraining:
    """What a base model made in the run is trained on.

    Attributes:
      text: JSONL of {text}; "" takes the segments' texts.
      tokenizer: a SentencePiece model; "" trains one on the text.
      vocab_size: of a tokenizer trained here; LlamaConfig.vocab_size is to be the same.
    """

    text: str = ""
    tokenizer: str = ""
    vocab_size: int = 4096


@configurable
@dataclasses.dataclass(frozen=True)
class PretrainingText:
    """How much of the microworld's pretraining text stage "world" writes.

    Attributes:
      documents: lines of {run_dir}/world/pretraining.jsonl; a few thousand serve for replay, a
        base model needs about 90 for each step of 4096 tokens.
    """

    documents: int = 6000
