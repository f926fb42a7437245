"""The models that encoder_speed.py measures: random weights in the shape of published encoders, what they embed, and PyTorch's way to.

A maker leaves in a folder what firn reads, weights and inputs of `n` rows, and answers the jobs that can be done with it.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    AutoModel, BertConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, SiglipConfig, SiglipModel, XLMRobertaConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import clip_parity

FIXTURES = clip_parity.ROOT / "model/fixtures"
N_PHOTOS = 32
N_DECODER_TOKENS = 128


@dataclass
class Job:
    """Something to embed: as many rows of each input as a batch has."""

    what: str
    """As the table and model/examples/encoder_speed call it."""
    peer: Callable
    """In PyTorch; if it is a module, it is exported to onnxruntime."""
    inputs: list
    n_items: np.ndarray
    """Of each row: one for an image, its tokens for a text."""
    engines: dict
    """Columns of the table, and how model/examples/encoder_speed calls the engine in it."""
    batches: list | None = None
    """If not those of the command line."""
    tolerance: float = 1e-4
    """The largest difference from PyTorch's answer, as rows of unit length."""


class Call(torch.nn.Module):
    """A module that is told how to be called, so that it has one graph."""

    def __init__(self, module, call):
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *inputs):
        return self.call(self.module, *inputs)


def clip(name, folder, n):
    model, processor, tokenizer = clip_parity.make_model(name, folder)
    words, pixels, jpeg = texts(n), random_pixels(n, model.config.vision_config.image_size), photo()
    batch = tokenizer(words, truncation=True, max_length=77, padding=True, return_tensors="pt")
    ids = batch["input_ids"]
    write_inputs(folder, words, pixels=pixels, ids=ids.to(torch.uint32), photo=torch.frombuffer(bytearray(jpeg), dtype=torch.uint8))
    image = Call(model, lambda model, x: model.visual_projection(model.vision_model(x).pooler_output))
    text = Call(model, lambda model, x: model.text_projection(model.text_model(x).pooler_output))
    engines = {"firn": "encoder", "candle": "candle"}
    return [
        Job("image", image, [pixels], np.ones(n), engines),
        Job("text", text, [ids], batch["attention_mask"].sum(1).numpy(), engines),
        # Decoders of JPEG round colours differently.
        Job("photo", partial(preprocess, processor), [[jpeg] * N_PHOTOS], np.ones(N_PHOTOS), {"firn": "encoder"}, [N_PHOTOS], 1e-2),
    ]


def siglip(folder, n):
    """siglip-base-patch16-224: every text has 64 tokens."""
    torch.manual_seed(3)
    model = SiglipModel(SiglipConfig()).eval()
    side, length = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    tokenizer = use_tokenizer("siglip-1", folder, pad_token="</s>")
    words, pixels = texts(n), random_pixels(n, side)
    ids = tokenizer(words, padding="max_length", max_length=length, return_tensors="pt")["input_ids"]
    write_inputs(folder, words, pixels=pixels)
    image = Call(model, lambda model, x: model.vision_model(x).pooler_output)
    text = Call(model, lambda model, x: model.text_model(x).pooler_output)
    return [
        Job("image", image, [pixels], np.ones(n), {"firn": "encoder"}),
        Job("text", text, [ids], np.full(n, length), {"firn": "encoder"}),
    ]


def sentence(config, folder, n):
    torch.manual_seed(3)
    bare, words = folder / "bare", texts(n)
    AutoModel.from_config(config).save_pretrained(bare)
    use_tokenizer("sentence-xlm-roberta", bare, pad_token="<pad>").save_pretrained(bare)
    modules = [Transformer(str(bare), max_seq_length=128), Pooling(config.hidden_size, "mean")]
    model = SentenceTransformer(modules=modules, device="cpu").eval()
    model.save(str(folder), create_model_card=False)
    write_inputs(folder, words)
    batch = model.tokenizer(words, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    call = lambda model, ids, mask: model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
    return [Job("text", Call(model, call), [ids, mask], mask.sum(1).numpy(), {"firn": "encoder"})]


def decoder(folder, n):
    """The first 8 of Qwen3-0.6B's 28 blocks: the states behind them, without a final norm. A mask of ones, which the tracer needs."""
    config = Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, max_position_embeddings=40960, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=True,
    )
    torch.manual_seed(3)
    whole = Qwen3ForCausalLM(config).eval()
    whole.save_pretrained(folder)
    model = whole.model
    model.norm = torch.nn.Identity()
    ids = torch.randint(config.vocab_size, (n, N_DECODER_TOKENS))
    write_inputs(folder, [], ids=ids.to(torch.uint32))
    call = lambda model, ids, mask: model(ids, mask, use_cache=False).last_hidden_state
    return [Job("states", Call(model, call), [ids, torch.ones_like(ids)], np.full(n, N_DECODER_TOKENS), {"firn": "decoder"})]


BASE = dict(vocab_size=250002, layer_norm_eps=1e-5)
SMALL = dict(vocab_size=250037, hidden_size=384, intermediate_size=1536, num_attention_heads=12)
MAKERS = {name: partial(clip, name) for name in clip_parity.MODELS} | {
    "siglip-b16": siglip,
    # paraphrase-multilingual-mpnet-base-v2 and paraphrase-multilingual-MiniLM-L12-v2.
    "xlm-r-base": partial(sentence, XLMRobertaConfig(**BASE, max_position_embeddings=514, type_vocab_size=1)),
    "minilm-l12": partial(sentence, BertConfig(**SMALL)),
    "qwen3-8-blocks": decoder,
}


def use_tokenizer(fixture, folder, **special):
    """A vocabulary much smaller than the table of embeddings, whose other rows are never read."""
    (folder / "tokenizer.json").write_text((FIXTURES / fixture / "tokenizer.json").read_text())
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)


def random_pixels(n, side):
    return torch.from_numpy(np.random.default_rng(9).normal(0, 1, (n, 3, side, side)).astype(np.float32))


def texts(n):
    """The first is the longest, so that a batch is never padded for a text that is not in it."""
    times = [7, *np.random.default_rng(9).integers(1, 8, n - 1)]
    return [" ".join(["a photo of a cat on the sofa"] * int(k)) for k in times]


def write_inputs(folder, texts, **tensors):
    (folder / "texts.json").write_text(json.dumps(texts))
    save_file({name: tensor.numpy() for name, tensor in tensors.items()}, folder / "inputs.bin")


def photo():
    """Smooth noise with some grain, as a camera's JPEG has it."""
    rng = np.random.default_rng(7)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 8, (375, 500, 1))
    picture = Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=90)
    return file.getvalue()


def preprocess(processor, photos):
    pictures = (Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos)
    return np.stack([processor(picture, return_tensors="np")["pixel_values"][0] for picture in pictures])
