"""Real detectors of a few thousand random weights, saved as folders."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    CLIPTokenizerFast,
    DetrConfig,
    DetrForObjectDetection,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    OwlViTConfig,
    OwlViTForObjectDetection,
    PreTrainedTokenizerFast,
    ResNetConfig,
    SwinConfig,
    YolosConfig,
    YolosForObjectDetection,
)

NAMES = {0: "Cat", 1: "dog", 2: "N/A"}


def save_yolos(folder: Path) -> Path:
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    config = YolosConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[32, 48],
        patch_size=8, num_detection_tokens=20, id2label=NAMES, label2id={name: i for i, name in NAMES.items()},
    )  # fmt: skip
    return _save(folder, YolosForObjectDetection, config, YolosImageProcessorPil(size={"height": 32, "width": 48}))


def save_detr(folder: Path) -> Path:
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, d_model=32,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=20, id2label=NAMES, label2id={name: i for i, name in NAMES.items()},
    )  # fmt: skip
    processor = DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64})
    return _save(folder, DetrForObjectDetection, config, processor)


def save_owlvit(folder: Path) -> Path:
    from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil
    from transformers.models.owlvit.processing_owlvit import OwlViTProcessor

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = {
        word: i for i, word in enumerate([*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])
    }
    tokenizer = CLIPTokenizerFast(vocab=vocabulary, merges=[], pad_token="<|endoftext|>", model_max_length=32)
    text = {"vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {
        "num_attention_heads": 2,
        "bos_token_id": 52,
        "eos_token_id": 53,
        "pad_token_id": 53,
        "max_position_embeddings": 32,
    }
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=32
    )
    images = OwlViTImageProcessorPil(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    processor = OwlViTProcessor(image_processor=images, tokenizer=tokenizer)
    return _save(folder, OwlViTForObjectDetection, config, processor)


def save_grounding_dino(folder: Path) -> Path:
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
    from transformers.models.grounding_dino.processing_grounding_dino import GroundingDinoProcessor

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", "red", "cat", "dog", "apple"]
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, **special)
    backbone = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2,
        out_features=["stage1", "stage2"],
    )  # fmt: skip
    text = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config = GroundingDinoConfig(
        backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=20, num_feature_levels=2,
        max_text_len=32,
    )  # fmt: skip
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64})
    processor = GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer)
    return _save(folder, GroundingDinoForObjectDetection, config, processor)


def _save(folder: Path, kind: type, config: object, processor: object) -> Path:
    torch.manual_seed(0)
    model = kind(config)  # type: ignore[call-arg]
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.3)  # else every finding is the same
    model.save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder
