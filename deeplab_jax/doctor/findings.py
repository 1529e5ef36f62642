"""What the doctor says: findings, errors or warnings, with a remedy each."""

import dataclasses
import enum
from collections.abc import Iterable
from typing import Any


class Severity(enum.StrEnum):
  """An error spoils training or is refused by it; a warning may be meant."""

  ERROR = "error"
  WARNING = "warning"


@dataclasses.dataclass(frozen=True)
class Mention:
  """A file that a finding concerns.

  Attributes:
    file: its path, or the name of an example.
    detail: what is wrong with this one; "" where the finding says it all.
    example: split and index by which the example can be read again, to show it;
      None where there is nothing to show.
  """

  file: str
  detail: str = ""
  example: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
  """One kind of fault, wherever it occurs.

  Attributes:
    code: its name, the same in every version.
    severity: error or warning.
    message: what is wrong, in plain words.
    remedy: what to do.
    mentions: the files concerned; none where it is the data set or the config.
  """

  code: str
  severity: Severity
  message: str
  remedy: str
  mentions: tuple[Mention, ...] = ()

  def to_dict(self) -> dict[str, Any]:
    """As `--json` writes it."""
    return {
      "code": self.code,
      "severity": str(self.severity),
      "message": self.message,
      "remedy": self.remedy,
      "files": [
        {"file": mention.file, "detail": mention.detail}
        for mention in self.mentions
      ],
    }


def error(
  code: str, message: str, remedy: str, mentions: Iterable[Mention] = ()
) -> Finding:
  """An error, see `Finding`."""
  return Finding(code, Severity.ERROR, message, remedy, tuple(mentions))


def warning(
  code: str, message: str, remedy: str, mentions: Iterable[Mention] = ()
) -> Finding:
  """A warning, see `Finding`."""
  return Finding(code, Severity.WARNING, message, remedy, tuple(mentions))
