"""croissant.json: what an export is, in MLCommons' Croissant 1.0, so that tools find, check and read it.

Every file stands there with its size and SHA-256. Records are rows of Parquet files, or members of
tars that go together by key. What the export knows of collection, filters and limits is told in the vocabulary of
responsible AI (RAI 1.0). See https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vila2_ray.corpus.datacard import DESCRIPTION, LIMITS

_SPEC = "http://mlcommons.org/croissant/1.0"
_RAI = "http://mlcommons.org/croissant/RAI/1.0"
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_PAPER = (
    "@article{fang2024vila2, title={VILA$^2$: VILA Augmented VILA}, author={Fang, Yunhao and others}, "
    "journal={arXiv preprint arXiv:2407.17453}, year={2024}}"
)
_IMAGES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tif": "image/tiff",
}
_TYPES = {"string": "sc:Text", "bool": "sc:Boolean", "double": "sc:Float", "float": "sc:Float"}
_ABOUT = {
    "key": "The sample's name in its shard.",
    "image": "The image, byte for byte as the source has it.",
    "caption": "Text to train on: alt text and captions fused.",
    "alt_text": "What the source says beside the image.",
    "image_sha256": "SHA-256 of the image file, hexadecimal.",
    "captions": "Every kept caption, with what wrote it.",
    "json": "alt_text, image_sha256, every kept caption with what wrote it, and the columns of the source.",
    "sample_id": "Shard and key.",
    "shard": "Name of the source's shard.",
    "text": "A caption, written by a model.",
    "mean_logprob": "Mean log-probability of the caption's tokens.",
    "min_logprob": "Lowest log-probability of a token of the caption.",
}
_CAPTION = {
    **dict.fromkeys(("layer", "round", "specialist", "model", "checkpoint_digest", "prompt_id", "text"), "sc:Text"),
    "variant": "sc:Integer",
    "mean_logprob": "sc:Float",
    "min_logprob": "sc:Float",
}


def render_croissant(figures: Mapping[str, Any], files: Sequence[Mapping[str, Any]], card: Mapping[str, Any]) -> str:
    """The metadata as JSON-LD; the same for the same export. `figures` and `card` are those of the data card, `files`
    what was written: `name`, `bytes`, `sha256`, `samples`, `columns` ([name, Arrow type]), in order of shards.
    """
    about = card.get("about") or {}
    title = about.get("title") or card.get("title") or "Recaptioned image–text data"
    stated = [licence for licence in figures["licenses"] if licence != "not stated"]
    told: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": _name(title),
        "alternateName": title,
        "description": about.get("description") or card.get("description") or DESCRIPTION,
        "conformsTo": [_SPEC, _RAI],
        "version": about.get("version") or "1.0.0",
        "citeAs": _PAPER,
        "license": [about["licence"]] if about.get("licence") else stated,
        "url": about.get("url"),
        "datePublished": about.get("published"),
        "creator": {"@type": "sc:Organization", "name": about["creator"]} if about.get("creator") else None,
        "inLanguage": [language for language in figures["languages"] if language != "not stated"],
        "keywords": ["image-text pairs", "synthetic captions"],
        **_responsible(figures, card),
        "distribution": [_file(one) for one in files] + _file_sets(figures["format"], files),
        "recordSet": _tar_records() if figures["format"] == "webdataset" else [_table_records(figures, files)],
    }
    return json.dumps({k: v for k, v in told.items() if v not in (None, [], "")}, indent=1, ensure_ascii=False) + "\n"


def _responsible(figures: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    """Where it comes from, what was done to it and what it must not be taken for."""
    left_out = ", ".join(f"{reason}: {count:,}" for reason, count in figures["left_out"].items()) or "nothing"
    models = [
        " ".join(filter(None, (layer.get("layer"), layer.get("model"), layer.get("checkpoint_digest"))))
        for layer in figures["layers"]
    ]
    filters = ", ".join(f"{name}={value}" for name, value in figures["filters"].items())
    policy = ", ".join(f"{name}={value}" for name, value in figures["policy"].items())
    hooks = "; ".join(", ".join(f"{k} {v}" for k, v in hook.items()) for hook in figures["hooks"])
    unchecked = [name for name in figures["unchecked"] if name != "evaluation images"]
    personal = f"Looked for by: {hooks}. " if hooks else ""
    personal += f"Nothing looked for {', '.join(unchecked)}. " if unchecked else ""
    told = ", ".join(f"{rule}: {count:,}" for rule, count in figures["warned"].items())
    return {
        "rai:dataCollection": f"Images and alt text of {', '.join(map(str, card.get('sources', [])))}; "
        f"{figures['exported']:,} of {figures['samples']:,} samples.",
        "rai:dataCollectionType": ["Secondary Data Analysis", "Others"],
        "rai:dataPreprocessingProtocol": [f"Left out: {left_out}.", f"Filters: {filters}.", f"Policy: {policy}."],
        "rai:dataAnnotationProtocol": "Captions are written by vision-language models, not by people: "
        + ("; ".join(models) or "none, alt text only")
        + ".",
        "rai:personalSensitiveInformation": [f"{personal}Exported all the same: {told or 'nothing found'}."],
        "rai:dataLimitations": LIMITS,
        "rai:dataBiases": "Those of the source and of the models that wrote the captions.",
    }


def _file(file: Mapping[str, Any]) -> dict[str, Any]:
    kind = "application/x-tar" if file["name"].endswith(".tar") else "application/x-parquet"
    return {
        "@type": "cr:FileObject",
        "@id": file["name"],
        "name": file["name"],
        "contentUrl": file["name"],
        "contentSize": f"{file['bytes']} B",
        "encodingFormat": kind,
        "sha256": file["sha256"],
    }


def _file_sets(format: str, files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What lies in tars, by kind; or all Parquet files together."""
    if format != "webdataset":
        return [_file_set("shards", ["*.parquet"], ["application/x-parquet"])]
    inside = {"containedIn": [{"@id": file["name"]} for file in files]}
    return [
        {**_file_set("image-files", [f"*.{ending}" for ending in _IMAGES], list(_IMAGES.values())), **inside},
        {**_file_set("text-files", ["*.txt"], ["text/plain"]), **inside},
        {**_file_set("metadata-files", ["*.json"], ["application/json"]), **inside},
    ]


def _file_set(name: str, includes: list[str], kinds: list[str]) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": kinds, "includes": includes}


def _table_records(figures: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A record per row, with the columns that every shard has; one that is of another type elsewhere is text. Bytes of
    the source's own are not told.
    """
    full = [file for file in files if file["samples"]] or files
    told = [dict(file["columns"]) for file in full]
    columns = {
        name: kind if all(one[name] == kind for one in told) else "string"
        for name, kind in told[0].items()
        if all(name in one for one in told)
    }
    name = "captions" if figures["format"] == "captions" else "samples"
    is_extra = {column: column not in _ABOUT and column not in _CAPTION for column in columns}
    fields = []
    for column, kind in columns.items():
        field = _field(name, column)
        if column == "image" and kind == "binary":
            fields.append({**field, "dataType": "sc:ImageObject", "source": _column(column)})
        elif kind.startswith("list<"):
            parts = [_part(name, column, part, data_type) for part, data_type in _CAPTION.items()]
            fields.append({**field, "repeated": True, "subField": parts})
        elif kind != "binary":
            note = {"description": "Of the source."} if is_extra[column] else {}
            fields.append({**field, **note, "dataType": _data_type(kind), "source": _column(column)})
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _tar_records() -> list[dict[str, Any]]:
    """A record per member of a tar; those of a sample have the same key. (No join: mlcroissant 1.1 cannot read it.)"""
    return [
        _members("images", "image-files", "image", "sc:ImageObject"),
        _members("texts", "text-files", "caption", "sc:Text"),
        _members("metadata", "metadata-files", "json", "sc:Text"),
    ]


def _members(kind: str, file_set: str, name: str, data_type: str) -> dict[str, Any]:
    """What lies in the members of one kind, beside the name that they have in common."""
    files = {"fileSet": {"@id": file_set}}
    stem = {**files, "extract": {"fileProperty": "filename"}, "transform": {"regex": r"^(.*)\.[^.]+$"}}
    fields = [
        {**_field(kind, "key"), "dataType": "sc:Text", "source": stem},
        {**_field(kind, name), "dataType": data_type, "source": {**files, "extract": {"fileProperty": "content"}}},
    ]
    return {"@type": "cr:RecordSet", "@id": kind, "name": kind, "key": {"@id": f"{kind}/key"}, "field": fields}


def _field(record_set: str, name: str) -> dict[str, Any]:
    about = {"description": _ABOUT[name]} if name in _ABOUT else {}
    return {"@type": "cr:Field", "@id": f"{record_set}/{name}", "name": name, **about}


def _column(name: str) -> dict[str, Any]:
    return {"fileSet": {"@id": "shards"}, "extract": {"column": name}}


def _part(record_set: str, column: str, part: str, data_type: str) -> dict[str, Any]:
    source = {**_column(column), "transform": {"jsonPath": part}}
    field = {"@type": "cr:Field", "@id": f"{record_set}/{column}/{part}", "name": part}
    return {**field, "dataType": data_type, "source": source}


def _data_type(kind: str) -> str:
    return "sc:Integer" if kind.startswith(("int", "uint")) else _TYPES.get(kind, "sc:Text")


def _name(title: str) -> str:
    """Without what a name must not hold."""
    return "".join(c if c.isalnum() or c in " -_." else "-" for c in title)
