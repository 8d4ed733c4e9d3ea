"""Studies as YAML files: what a page saves, `cmr launch` reads; and those that come with the project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from cmr_core.errors import NotFoundError, SpecError
from cmr_core.spec import StudySpec, parse

STUDIES = Path(__file__).resolve().parents[2] / "studies"
MOST_BYTES = 64 * 1024
_EXAMPLE = "See studies/sample.yaml for a study."


@dataclass(frozen=True)
class BuiltinStudy:
    """A study that comes with the project: the file `studies/<name>.yaml`. `title` says in words what it asks."""

    name: str
    title: str
    path: Path
    spec: StudySpec


def builtin_studies(folder: Path = STUDIES) -> list[BuiltinStudy]:
    """The studies of the project, by name. Raises NotFoundError where there is no such folder, SpecError for a file
    that holds no study or one of another name."""
    if not folder.is_dir():
        raise NotFoundError(
            f"The project's studies are not in {folder}.",
            hint="They come with a checkout: install it in place (./cmr does), or give the file of a study.",
        )
    found = []
    for path in sorted(folder.glob("*.yaml")):
        spec = load_study(path)
        if spec.name != path.stem:
            raise SpecError(f"{path} holds the study {spec.name!r}.", hint="Name the file like its study.")
        found.append(BuiltinStudy(spec.name, spec.title or spec.name, path, spec))
    return found


def find_study_file(wanted: str) -> StudySpec:
    """The project's study of this name, or the study in this file. Raises NotFoundError, SpecError."""
    if Path(wanted).suffix in (".yaml", ".yml") or "/" in wanted:
        return load_study(Path(wanted))
    studies = {study.name: study.spec for study in builtin_studies()}
    if wanted not in studies:
        raise NotFoundError(
            f"The project has no study {wanted[:64]!r}.",
            hint=f"It has: {', '.join(studies)}. A file of your own ends in .yaml.",
        )
    return studies[wanted]


def load_study(path: Path) -> StudySpec:
    """The study in a file. Raises SpecError that names the file and what is wrong with it."""
    try:
        return read_study(path.read_bytes())
    except OSError as error:
        hint = "Give the YAML file of a study; those of the project go by name: ./cmr study launch NAME."
        raise SpecError(f"{path} cannot be read: {error.strerror}.", hint=hint) from None
    except SpecError as error:
        raise SpecError(f"{path}: {error}", hint=error.hint) from None


def read_study(data: bytes) -> StudySpec:
    """The study in a file's bytes. Raises SpecError for anything else: too large, no YAML, a wrong or unknown key."""
    if len(data) > MOST_BYTES:
        raise SpecError(f"The file has {len(data)} bytes; a study has {MOST_BYTES} at most.", hint=_EXAMPLE)
    try:
        text = data.decode("utf-8-sig")
        # aliases are what makes a small file expand to a huge one
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise SpecError("The file uses YAML aliases (*name).", hint="Write the values out.")
        _no_key_twice(yaml.compose(text, Loader=yaml.SafeLoader))
        body = yaml.safe_load(text)
    except UnicodeDecodeError:
        raise SpecError("The file is not UTF-8 text.", hint="Save the study as UTF-8.") from None
    except RecursionError:
        raise SpecError("The file is nested too deeply.", hint=_EXAMPLE) from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"The file is not valid YAML: {' '.join(str(error).split())[:300]}", hint=_EXAMPLE) from None
    if not isinstance(body, dict):
        raise SpecError("The file is not a study: it begins with name, corpus and methods.", hint=_EXAMPLE)
    try:
        return parse(StudySpec, body)
    except SpecError as error:
        raise SpecError(str(error), hint=error.hint or _EXAMPLE) from None


def _no_key_twice(node: yaml.Node | None) -> None:
    # YAML lets the last of two equal keys win without a word
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise SpecError(f"The key {double[0]!r} stands twice in one place.", hint="Keep one of them.")
        for _, value in node.value:
            _no_key_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _no_key_twice(item)
