"""Work on its way to another process, with a check that the teacher arrives as it was sent.

Weights travel with the pickle. Code of the user does not: the other process imports it, and may find another version.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace

from softlabels.errors import InvalidArgument, StoreConflict
from softlabels.generation.engine import Work
from softlabels.generation.ranks import Rank
from softlabels.models import Model


@dataclass(frozen=True)
class Payload:
    """Work as bytes.

    Attributes:
        data: The pickled work; its teacher is on the CPU.
        digest: Digest of the teacher when it was pickled.
    """

    data: bytes
    digest: str

    @classmethod
    def pack(cls, work: Work, dumps: Callable[[Work], bytes] = pickle.dumps) -> Payload:
        """Return work as bytes.

        Args:
            work: The work.
            dumps: Function that pickles it.

        Raises:
            InvalidArgument: Data or teacher cannot be pickled.
        """
        work = replace(work, teacher=work.teacher.to("cpu"))
        try:
            return cls(dumps(work), _digest_now(work.teacher))
        except (pickle.PicklingError, AttributeError, TypeError, NotImplementedError) as error:
            raise InvalidArgument(
                f"teacher or data: cannot be sent to other processes, got {type(error).__name__}: {error}; expected "
                "objects that can be pickled. Name the teacher by a MODEL specification such as python:MODULE:NAME, "
                "and the data by its path"
            ) from error

    def unpack(self, rank: Rank) -> Work:
        """Return the work for a process, with the teacher on its device.

        Args:
            rank: Position of the process.

        Raises:
            StoreConflict: The teacher is not the one that was sent.
        """
        work: Work = pickle.loads(self.data)  # noqa: S301  bytes of the process that started this one
        digest = _digest_now(work.teacher)
        if digest != self.digest:
            raise StoreConflict(
                f"teacher {work.teacher.spec}: this process has another one, got digest {digest}; expected "
                f"{self.digest}. Install the same code on every machine, and do not edit it during a run"
            )
        return replace(work, teacher=work.teacher.to(work.settings.device), rank=rank)


def _digest_now(teacher: Model) -> str:
    """Return the digest of a teacher as it is now; the stored one would travel with the pickle."""
    return replace(teacher, identity=None).digest
