"""Small models of known families, with tokenizers that are laid out as theirs."""

import json
import shutil

import pytest
import torch
from conftest import REPOSITORY
from transformers import AutoModelForCausalLM

from engine.errors import SpecError
from engine.job.jobfile import load_job
from engine.machines.architectures import facts, load_config
from engine.machines.tiny_models import FAMILIES
from engine.rehearsal import little_models
from engine.rehearsal.chats import CHATS
from engine.rehearsal.little_models import LittleModels, is_little, on_disk
from engine.rehearsal.tokenizers import train_tokenizer
from engine.rows.tools import Conversation
from engine.training.chat import learnt_tokens
from engine.training.tokenizer import read_tokenizer

QUICKSTART = REPOSITORY / "jobs/quickstart"
TEXTS = [
    "Ann has 12 apples and buys 15. How many? héllo 日本",
    "The answer is 27, said she.\n\nWell.",
]
DIALOGUE = [
    {"role": "user", "content": "How many apples?"},
    {"role": "assistant", "content": "Two apples."},
    {"role": "user", "content": "And  boats? 🙂"},
    {"role": "assistant", "content": "The answer is 27."},
]
TOOLS = [{"type": "function", "function": {"name": "weather_of", "parameters": {}}}]
CALL = {"type": "function", "function": {"name": "weather_of", "arguments": {"town": "Bern"}}}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """{family: its small tokenizer as it is read from disk}"""
    read = {}
    for name, chat in CHATS.items():
        folder = tmp_path_factory.mktemp("tokenizer")
        train_tokenizer(chat, TEXTS * 4).save_pretrained(folder)
        read[name] = read_tokenizer(folder)
    return read


def test_every_family_has_its_chat():
    assert {family.name for family in FAMILIES} == CHATS.keys()


@pytest.mark.parametrize("family", CHATS)
def test_a_conversation_comes_back_from_its_tokens(tokenizers, family):
    tokenizer = tokenizers[family]
    text = tokenizer.apply_chat_template(DIALOGUE, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("family", CHATS)
def test_training_finds_the_answers_in_it(tokenizers, family):
    tokenizer = tokenizers[family]
    ids, learnt = learnt_tokens(Conversation(DIALOGUE), tokenizer, "all")
    said = tokenizer.decode(ids[learnt], skip_special_tokens=True)
    assert "Two apples." in said
    assert "The answer is 27." in said
    assert "boats" not in said
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("family", CHATS)
def test_every_family_is_told_of_tools(tokenizers, family):
    turns = [DIALOGUE[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    turns += [{"role": "tool", "content": "sun"}]
    text = tokenizers[family].apply_chat_template(turns, tools=TOOLS, tokenize=False)
    assert text.count("weather_of") == 2
    assert "Bern" in text
    assert "sun" in text


def test_only_a_folder_of_a_few_weights_is_small():
    assert is_little(str(QUICKSTART / "teacher"))
    assert is_little(str(QUICKSTART / "student"))
    assert not is_little("meta-llama/Llama-3.1-8B-Instruct")


def test_what_is_no_hub_name_is_not_looked_up():
    assert on_disk("/models/of/another machine") is None


def test_a_small_model_stands_for_itself_and_a_large_one_is_made(tmp_path):
    models = LittleModels(tmp_path, TEXTS * 4, shrink=8)
    own = str(QUICKSTART / "teacher")
    assert models.model(own) == own
    made = models.model("microsoft/Phi-4-mini-instruct")
    config = load_config(tmp_path / made)
    assert (config["model_type"], config["tie_word_embeddings"]) == ("phi3", True)
    assert facts(made).max_context == 131_072 // 8
    assert models.said[own] == "itself"
    assert models.said["microsoft/Phi-4-mini-instruct"].startswith("a random phi3 of ")
    assert models.model("microsoft/Phi-4-mini-instruct") == made


def test_models_of_one_tokenizer_share_it_and_others_do_not(tmp_path):
    models = LittleModels(tmp_path, TEXTS * 4, shrink=8)
    names = ("meta-llama/Llama-3.1-405B-Instruct-FP8", "meta-llama/Llama-3.1-8B-Instruct")
    teacher, student = map(models.model, names)
    other = models.model("Qwen/Qwen3-8B")
    told = [(tmp_path / made / "tokenizer.json").read_text() for made in (teacher, student, other)]
    assert told[0] == told[1]
    assert json.loads(told[0])["model"]["vocab"] != json.loads(told[2])["model"]["vocab"]


@pytest.mark.parametrize(
    "name", ["deepseek-ai/DeepSeek-V3", "meta-llama/Llama-3.1-8B-Instruct", "google/gemma-3-4b-it"]
)
def test_a_teacher_says_words_and_no_marks(name, tmp_path):
    folder = LittleModels(tmp_path, TEXTS * 4, shrink=8).model(name, answers=True)
    tokenizer = read_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    asked = tokenizer.apply_chat_template(DIALOGUE[:3], tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer(asked, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        chances = model(ids).logits[0].softmax(-1)
    marks = [id for id in tokenizer.added_tokens_decoder if id != tokenizer.eos_token_id]
    assert chances[:, marks].sum(1).max() < 1e-4
    assert chances[:, tokenizer.eos_token_id].max() > 1e-4, "it may end"


def test_the_tokenizer_that_is_on_disk_is_taken(tmp_path):
    """Of a folder whose weights are large, or not there."""
    folder = tmp_path / "Llama-3.1-8B"
    shutil.copytree(QUICKSTART / "teacher", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 4096 * 6}))
    models = LittleModels(tmp_path / "made", TEXTS, shrink=8)
    made = models.model(str(folder))
    ours = read_tokenizer(made)
    theirs = read_tokenizer(QUICKSTART / "teacher")
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.chat_template == theirs.chat_template
    assert models.tokenizer(str(folder)) == str(folder)


def test_an_unknown_architecture_is_named_with_the_remedy(tmp_path):
    models = LittleModels(tmp_path, TEXTS, shrink=8)
    with pytest.raises(SpecError, match=r"no tiny model .* owner/strange.*--set FIELD=NAME"):
        models.model("owner/strange")


def test_every_job_has_known_models(tmp_path):
    for path in (REPOSITORY / "jobs").glob("*.yaml"):
        job = load_job(path)
        for model in little_models_of(job):
            assert is_little(model) or little_models.family_of(model), model


def little_models_of(job):
    return [each.model for each in job.asked().values() if each.kind == "vllm"] + [
        job.train.student
    ]
