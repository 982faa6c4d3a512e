"""Branches, tags and commits."""

from __future__ import annotations

from datetime import datetime
from typing import Callable, Iterator, Mapping

from ._client_base import Methods
from ._convert import (
    BranchArg,
    JobArg,
    NamespaceArg,
    RefArg,
    TagArg,
    branch_name,
    instant,
    job_id,
    namespace_name,
    ref_text,
    tag_name,
    to_branch,
    to_commit,
    to_diff,
    to_tag,
)
from .exceptions import RefNotFoundError, TagNotFoundError
from .schema import Branch, Commit, Diff, Tag


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
        return map(to_branch, self._ask("branch.list", name=name, user=user, limit=limit))

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

        `from_ref` may also walk back: `main~2`, `main^2`, `main@2026-11-01T09:30` (UTC, unless it ends in a zone).

        Raises:
            MergeForbiddenError: if the ref holds results of a failed run.
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
            ForbiddenError: for `main`, and for a protected branch.
        """
        return bool(self._ask("branch.delete", name=branch_name(branch), if_exists=if_exists)["deleted"])

    def protect_branch(self, branch: BranchArg) -> Branch:
        """Lets only merges move a branch, and keeps it from being deleted or renamed.

        Raises:
            BranchNotFoundError: if there is none.

        Example:
            >>> client.protect_branch("main").protected  # doctest: +SKIP
            True
        """
        return to_branch(self._ask("branch.protect", name=branch_name(branch), protected=True))

    def unprotect_branch(self, branch: BranchArg) -> Branch:
        """Lets a protected branch go.

        Raises:
            BranchNotFoundError: if there is none.
        """
        return to_branch(self._ask("branch.protect", name=branch_name(branch), protected=False))

    def diff_branches(
        self, a: RefArg, b: RefArg, *, namespace: NamespaceArg | None = None, names_only: bool = False
    ) -> Diff:
        """What differs from one ref to another: tables, columns, rows, statistics. Reads metadata, never data.

        Args:
            a: Any ref.
            b: Any ref.
            namespace: Only this namespace.
            names_only: Only which tables; no metadata file is opened, and `tables` is empty.

        Raises:
            RefNotFoundError: if there is no such ref.

        Example:
            >>> diff = client.diff_branches("main", "ann.fix")  # doctest: +SKIP
            >>> [(table.table, table.after.records) for table in diff.tables]  # doctest: +SKIP
            [('default.flights', 336776)]
        """
        found = self._ask(
            "branch.diff",
            a=ref_text(a),
            b=ref_text(b),
            namespace=namespace_name(namespace),
            names_only=names_only,
        )
        return to_diff(found)

    def revert_commit(
        self,
        ref: RefArg,
        into_branch: BranchArg,
        *,
        commit_message: str | None = None,
        commit_body: str | None = None,
        commit_properties: Mapping[str, str] | None = None,
    ) -> Branch:
        """Undoes a commit of a branch by a new commit; of a merge, all that it brought.

        Args:
            ref: The commit, as any ref.
            into_branch: The branch; the commit must be in its history.
            commit_message: First line of the message.
            commit_body: The rest.
            commit_properties: Properties of the commit.

        Returns:
            The branch after the revert.

        Raises:
            RevertConflictError: if a table it changed was changed since; names the tables.
            NothingToRevertError: if it is undone already.
            ResourceNotFoundError: if it is not in the branch's history.

        Example:
            >>> client.revert_commit("main~1", into_branch="main")  # doctest: +SKIP
            Branch(name='main', hash='5e6f7a8b…')
        """
        return self._revert(into_branch, {"ref": ref_text(ref)}, commit_message, commit_body, commit_properties)

    def revert_run(
        self,
        job: JobArg,
        into_branch: BranchArg,
        *,
        commit_message: str | None = None,
        commit_body: str | None = None,
        commit_properties: Mapping[str, str] | None = None,
    ) -> Branch:
        """Undoes everything a run, or an import, committed to a branch, by one new commit.

        Raises:
            RevertConflictError: if a table it wrote was changed since; names the tables.
            NothingToRevertError: if it is undone already.
            ResourceNotFoundError: if nothing of that job is in the branch's history.
        """
        return self._revert(into_branch, {"job": job_id(job)}, commit_message, commit_body, commit_properties)

    def _revert(
        self,
        branch: BranchArg,
        what: dict[str, str],
        message: str | None,
        body: str | None,
        properties: Mapping[str, str] | None,
    ) -> Branch:
        words = {"message": message, "body": body, "properties": dict(properties or {})}
        return to_branch(self._ask("commit.revert", branch=branch_name(branch), **what, **words))

    def merge_branch(
        self,
        source_ref: RefArg,
        into_branch: BranchArg,
        *,
        commit_message: str | None = None,
        commit_body: str | None = None,
        commit_properties: Mapping[str, str] | None = None,
        always_commit: bool = False,
    ) -> Branch:
        """Merges any ref into a branch, all tables at once: fast-forward, else three-way per table.

        Args:
            source_ref: Any ref.
            into_branch: The branch to move.
            commit_message: First line of the message, if the merge makes a commit.
            commit_body: The rest.
            commit_properties: Properties of the commit.
            always_commit: Makes a commit also where the branch could just move, so that the words are kept.

        Returns:
            The branch after the merge.

        Raises:
            MergeConflictError: if both sides changed a table; names the tables.
            MergeForbiddenError: if the source holds results of a failed run.
            SameRefError: if both are the same commit.

        Example:
            >>> client.merge_branch("ann.fix", into_branch="main")  # doctest: +SKIP
            Branch(name='main', hash='5e6f7a8b…')
        """
        merged = self._ask(
            "branch.merge",
            source=ref_text(source_ref),
            into=branch_name(into_branch),
            always_commit=always_commit,
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
        def time(value: str | datetime | None) -> str | None:
            found = instant(value)
            return None if found is None else found.isoformat()

        found = self._ask(
            "commit.list",
            **{"ref": ref_text(ref)},
            message=filter_by_message,
            author_name=filter_by_author_name or filter_by_author_username,
            author_email=filter_by_author_email,
            properties=dict(filter_by_properties or {}),
            authored_date=time(filter_by_authored_date),
            since=time(filter_by_authored_date_start_at),
            until=time(filter_by_authored_date_end_at),
            parent=filter_by_parent_hash,
            limit=limit,
        )
        return map(to_commit, found)


def _exists(get: Callable[..., object], name: object) -> bool:
    try:
        get(name)
    except (RefNotFoundError, TagNotFoundError):
        return False
    return True
