"""Studies as YAML files."""

from __future__ import annotations

from pathlib import Path

import yaml

from cmr_core.errors import SpecError
from cmr_core.spec import StudySpec, parse

LARGEST = 2**20  # bytes; a study is a page of text


def read_study(path: Path) -> StudySpec:
    """The study in a YAML file. Raises SpecError that names the file and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > LARGEST:
            raise SpecError(f"{path} is larger than a study can be.", hint="Give the YAML file of a study.")
        body = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}.", hint="Give the YAML file of a study.") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not valid YAML: {error}", hint="See studies/sample.yaml for one that is.") from None
    if not isinstance(body, dict):
        raise SpecError(f"{path} holds no study.", hint="See studies/sample.yaml for one that does.")
    try:
        return parse(StudySpec, body)
    except SpecError as error:
        raise SpecError(f"{path}: {error}", hint=error.hint or "See studies/sample.yaml for a study.") from None


def write_study(spec: StudySpec) -> str:
    """The study as YAML; reading it again gives an equal study."""
    body = spec.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump({"schema_version": spec.schema_version, **body}, sort_keys=False, allow_unicode=True)
