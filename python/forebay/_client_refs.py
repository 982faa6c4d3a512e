"""Branches, tags and commits."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Callable, Iterator, Mapping

from ._client_base import Methods
from ._convert import (
    BranchArg,
    RefArg,
    TagArg,
    branch_name,
    instant,
    ref_text,
    tag_name,
    to_branch,
    to_commit,
    to_tag,
)
from .exceptions import RefNotFoundError, TagNotFoundError
from .schema import Branch, Commit, Tag


class RefMethods(Methods):
    """Branches, tags and commits."""

    def get_branches(
        self, *, name: str | None = None, user: str | None = None, limit: int | None = None
    ) -> Iterator[Branch]:
        """Branches, by name.

        Args:
            name: Exact name, or `^regex$`.
            user: Only branches called `user.…`.
            limit: At most so many.

        Example:
            >>> [branch.name for branch in client.get_branches()]  # doctest: +SKIP
            ['main']
        """
        asked = None if user else limit
        found = map(to_branch, self._ask("branch.list", name=name, limit=asked))
        return islice((branch for branch in found if not user or branch.name.startswith(f"{user}.")), limit)

    def get_branch(self, branch: BranchArg) -> Branch:
        """One branch as it is now.

        Raises:
            BranchNotFoundError: if there is none.
        """
        return to_branch(self._ask("branch.get", name=branch_name(branch)))

    def has_branch(self, branch: BranchArg) -> bool:
        """Whether there is a branch of that name."""
        return _exists(self.get_branch, branch)

    def create_branch(self, branch: BranchArg, from_ref: RefArg, *, if_not_exists: bool = False) -> Branch:
        """Creates a branch at any ref: one small write, no data is copied.

        Raises:
            BranchExistsError: if it exists and `if_not_exists` is not set.
            RefNotFoundError: if `from_ref` does not exist.

        Example:
            >>> client.create_branch("ann.fix", from_ref="main")  # doctest: +SKIP
            Branch(name='ann.fix', hash='1a2b3c4d…')
        """
        found = self._ask(
            "branch.create", name=branch_name(branch), **{"from": ref_text(from_ref)}, if_not_exists=if_not_exists
        )
        return to_branch(found)

    def rename_branch(self, branch: BranchArg, new_branch: BranchArg) -> Branch:
        """Renames a branch.

        Raises:
            BranchNotFoundError: if it does not exist.
            BranchExistsError: if the new name is taken.
        """
        return to_branch(self._ask("branch.rename", name=branch_name(branch), new_name=branch_name(new_branch)))

    def delete_branch(self, branch: BranchArg, *, if_exists: bool = False) -> bool:
        """Deletes a branch. `False` if there was none and `if_exists` is set.

        Raises:
            BranchNotFoundError: if there is none.
            ForbiddenError: for `main`.
        """
        return bool(self._ask("branch.delete", name=branch_name(branch), if_exists=if_exists)["deleted"])

    def merge_branch(
        self,
        source_ref: RefArg,
        into_branch: BranchArg,
        *,
        commit_message: str | None = None,
        commit_body: str | None = None,
        commit_properties: Mapping[str, str] | None = None,
    ) -> Branch:
        """Merges any ref into a branch, all tables at once: fast-forward, else three-way per table.

        Returns:
            The branch after the merge.

        Raises:
            MergeConflictError: if both sides changed a table; names the tables.
            MergeForbiddenError: if the source holds results of a failed run.

        Example:
            >>> client.merge_branch("ann.fix", into_branch="main")  # doctest: +SKIP
            Branch(name='main', hash='5e6f7a8b…')
        """
        merged = self._ask(
            "branch.merge",
            source=ref_text(source_ref),
            into=branch_name(into_branch),
            message=commit_message,
            body=commit_body,
            properties=dict(commit_properties or {}),
        )
        return to_branch(merged)

    def get_tags(self, *, filter_by_name: str | None = None, limit: int | None = None) -> Iterator[Tag]:
        """Tags, by name; `filter_by_name` is an exact name or `^regex$`."""
        return map(to_tag, self._ask("tag.list", name=filter_by_name, limit=limit))

    def get_tag(self, tag: TagArg) -> Tag:
        """One tag.

        Raises:
            TagNotFoundError: if there is none.
        """
        return to_tag(self._ask("tag.get", name=tag_name(tag)))

    def has_tag(self, tag: TagArg) -> bool:
        """Whether there is a tag of that name."""
        return _exists(self.get_tag, tag)

    def create_tag(self, tag: TagArg, from_ref: RefArg, *, if_not_exists: bool = False) -> Tag:
        """Names a commit for good.

        Raises:
            TagExistsError: if it exists and `if_not_exists` is not set.
            RefNotFoundError: if `from_ref` does not exist.
        """
        found = self._ask("tag.create", name=tag_name(tag), **{"from": ref_text(from_ref)}, if_not_exists=if_not_exists)
        return to_tag(found)

    def rename_tag(self, tag: TagArg, new_tag: TagArg) -> Tag:
        """Renames a tag.

        Raises:
            TagNotFoundError: if it does not exist.
            TagExistsError: if the new name is taken.
        """
        return to_tag(self._ask("tag.rename", name=tag_name(tag), new_name=tag_name(new_tag)))

    def delete_tag(self, tag: TagArg, *, if_exists: bool = False) -> bool:
        """Deletes a tag. `False` if there was none and `if_exists` is set.

        Raises:
            TagNotFoundError: if there is none.
        """
        return bool(self._ask("tag.delete", name=tag_name(tag), if_exists=if_exists)["deleted"])

    def get_commits(
        self,
        ref: RefArg,
        *,
        filter_by_message: str | None = None,
        filter_by_author_username: str | None = None,
        filter_by_author_name: str | None = None,
        filter_by_author_email: str | None = None,
        filter_by_authored_date: str | datetime | None = None,
        filter_by_authored_date_start_at: str | datetime | None = None,
        filter_by_authored_date_end_at: str | datetime | None = None,
        filter_by_parent_hash: str | None = None,
        filter_by_properties: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Commit]:
        """The history of a ref, newest first.

        Args:
            ref: Any ref.
            filter_by_message: Exact text or `^regex$`; so are the filters by author.
            filter_by_author_username: The same as `filter_by_author_name`: local authors have one name.
            filter_by_author_name: The author's name.
            filter_by_author_email: The author's mail address.
            filter_by_authored_date: That very instant; RFC 3339 or `datetime`, UTC if it has no zone.
            filter_by_authored_date_start_at: That instant or later.
            filter_by_authored_date_end_at: That instant or earlier.
            filter_by_parent_hash: Commits made on this one.
            filter_by_properties: All of these properties.
            limit: At most so many.

        Raises:
            RefNotFoundError: if there is no such ref.

        Example:
            >>> for commit in client.get_commits("main", limit=3):  # doctest: +SKIP
            ...     print(commit.ref.hash[:8], commit.authored_date, commit.subject)
        """
        kept = _CommitFilter(
            instant(filter_by_authored_date),
            instant(filter_by_authored_date_start_at),
            instant(filter_by_authored_date_end_at),
            filter_by_parent_hash,
        )
        found = self._ask(
            "commit.list",
            **{"ref": ref_text(ref)},
            message=filter_by_message,
            author_name=filter_by_author_name or filter_by_author_username,
            author_email=filter_by_author_email,
            properties=dict(filter_by_properties or {}),
            limit=limit if kept.keeps_all else None,
        )
        return islice(filter(kept, map(to_commit, found)), limit)


class _CommitFilter:
    """The filters that the daemon does not know."""

    def __init__(
        self, at: datetime | None, start: datetime | None, end: datetime | None, parent: str | None
    ) -> None:
        self.at, self.start, self.end, self.parent = at, start, end, parent

    @property
    def keeps_all(self) -> bool:
        return self.at is None and self.start is None and self.end is None and self.parent is None

    def __call__(self, commit: Commit) -> bool:
        return (
            (self.at is None or commit.authored_date == self.at)
            and (self.start is None or commit.authored_date >= self.start)
            and (self.end is None or commit.authored_date <= self.end)
            and (self.parent is None or any(hash.startswith(self.parent) for hash in commit.parent_hashes))
        )


def _exists(get: Callable[..., object], name: object) -> bool:
    try:
        get(name)
    except (RefNotFoundError, TagNotFoundError):
        return False
    return True
