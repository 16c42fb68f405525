import dataclasses
import json
import pickle
import shutil
import threading
import time

import jax
import numpy as np
import pytest

from beam_pipelines import inference
from beam_pipelines.config import BeamConfig
from beam_pipelines.curate import CurateTask
from beam_pipelines.handler import LockedWorker, ModelSource, ShardHandler
from beam_pipelines.shards import InferenceStage, Shard, output_of
from humpback_jax.checkpoints import huggingface, importing
from humpback_jax.errors import UserError
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.partitioning import MeshConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Rating
from humpback_jax.rundir import StageDir

ENGINE = EngineConfig(slots=8, buckets=(8,))


class Counting:
    """A task and worker in one, which counts its loads and says how many work at once."""

    spans_processes = False

    def __init__(self):
        self.loads, self.working, self.most = 0, 0, 0

    def load(self):
        self.loads += 1
        return self

    def process(self, shard):
        self.working += 1
        self.most = max(self.most, self.working)
        time.sleep(0.01)
        self.working -= 1
        return output_of(shard.index, [], [])


def test_batches_are_single_shards():
    handler = ShardHandler(Counting(), share=True)
    assert handler.batch_elements_kwargs() == {"min_batch_size": 1, "max_batch_size": 1}
    assert handler.share_model_across_processes()
    assert not ShardHandler(Counting(), share=False).share_model_across_processes()


def test_the_model_is_not_part_of_the_pipeline(model_folder):
    source = ModelSource(str(model_folder), ENGINE)
    assert len(pickle.dumps(ShardHandler(source, share=True))) < 2000


def test_one_shard_at_a_time():
    task = Counting()
    worker = ShardHandler(task, share=False).load_model()
    assert isinstance(worker, LockedWorker)
    threads = [threading.Thread(target=worker.process, args=[Shard(i, [])]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (task.loads, task.most) == (1, 1)


def test_the_fingerprint_is_known_without_loading(model_folder, tmp_path):
    source = ModelSource(str(model_folder), ENGINE)
    assert source.fingerprint() == huggingface.folder_digest(model_folder)
    model, _ = source.load()
    assert model.fingerprint == source.fingerprint()
    with pytest.raises(UserError, match="is no model folder"):
        ModelSource(str(tmp_path), ENGINE).fingerprint()


def test_a_checkpoint_of_ours_is_a_model_as_well(model_folder, tmp_path):
    model, tokenizer = importing.open_folder(model_folder)
    card = importing.import_model(model, tokenizer, tmp_path, None)
    source = ModelSource(str(tmp_path), ENGINE)
    assert source.fingerprint() == card.fingerprint
    (ours, _), (theirs, _) = source.load(), ModelSource(str(model_folder), ENGINE).load()
    assert (ours.config, ours.eos_ids) == (theirs.config, theirs.eos_ids)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def _rate(run_dir, model, beam=None):
    """Rates with a folder that the submitter could read, unlike its workers."""
    task = CurateTask(ModelSource(str(model), ENGINE), Prompts(), RatingConfig(), 1)
    stages = [StageDir(run_dir, name) for name in ("curate1", "augment")]
    job = InferenceStage(*stages, read=Candidate, write=Rating, task=task, only_ok=True)
    return inference.run_stage(job, {}, {}, beam)


IN_MEMORY = BeamConfig()
SHARING = BeamConfig(direct_running_mode="multi_processing", num_workers=2)


@pytest.mark.parametrize("beam", [None, IN_MEMORY, pytest.param(SHARING, marks=pytest.mark.slow)])
def test_a_worker_without_the_model_is_one_clear_sentence(rated_run_dir, tmp_path, beam):
    with pytest.raises(UserError) as caught:
        _rate(rated_run_dir, tmp_path / "nowhere", beam)
    message = str(caught.value)
    assert message.startswith("the worker on ")
    assert f"finds no model folder {tmp_path / 'nowhere'}: put the model where" in message
    assert "\n" not in message


def _smaller_card(folder):
    card = json.loads((folder / "model.json").read_text())
    card["config"]["mlp_dim"] = 32
    (folder / "model.json").write_text(json.dumps(card))


def _smaller_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("beam", [None, IN_MEMORY])
def test_a_checkpoint_of_another_size_is_one_clear_sentence(
    rated_run_dir, model_folder, tmp_path, ours, beam
):
    folder = tmp_path / "model"
    if ours:
        importing.import_model(*importing.open_folder(model_folder), folder, None)
        _smaller_card(folder)
    else:
        shutil.copytree(model_folder, folder)
        _smaller_config(folder)
    with pytest.raises(UserError) as caught:
        _rate(rated_run_dir, folder, beam)
    message = str(caught.value)
    assert str(folder) in message
    assert "64" in message
    assert "32" in message
    assert "belong" in message
    assert "\n" not in message


def test_a_worker_may_use_several_devices(model_folder):
    _, engine = ModelSource(str(model_folder), ENGINE, MeshConfig(data=4, tensor=2)).load()
    assert dict(engine.mesh.shape) == {"data": 4, "fsdp": 1, "sequence": 1, "tensor": 2}


def test_records_are_counted_by_their_status():
    statuses = ["ok", "too_long", "error", "ok", "too_long"]
    rows = [Rating(str(i), 1, "m", 0.0, (), "", s, f"d{i}") for i, s in enumerate(statuses)]
    rows[3:] = [dataclasses.replace(row, truncated=9) for row in rows[3:]]
    output = output_of(7, rows, [f"src{i}" for i in range(5)])
    assert str(output.counts) == "5 in = 2 out + 2 rejected (too_long 2) + 1 errors, 2 truncated"
    assert [(r.record_id, r.source, r.reason, r.detail) for r in output.rejects] == [
        ("1", "src1", "too_long", "d1"),
        ("2", "src2", "error", "d2"),
        ("4", "src4", "too_long", "d4; its text was truncated by 9 characters"),
    ]
    output.counts.check("test")
