"""Namespaces, tables, and getting files into tables."""

from __future__ import annotations

import os
import re
from typing import Iterator, Mapping, Sequence, Union

from ._client_base import Methods
from ._convert import (
    BranchArg,
    NamespaceArg,
    RefArg,
    TableArg,
    branch_name,
    namespace_name,
    ref_text,
    search_uri as absolute_uri,
    table_name,
    to_branch,
    to_table,
    to_table_change,
)
from .exceptions import NamespaceNotFoundError, TableNotFoundError
from .schema import Branch, Namespace, Table, TableChange
from .state import TableCreatePlanState, TableDataImportState


class TableMethods(Methods):
    """Namespaces, tables, and getting files into tables."""

    def get_namespaces(
        self, ref: RefArg, *, filter_by_name: str | None = None, limit: int | None = None
    ) -> Iterator[Namespace]:
        """Namespaces at a ref; `filter_by_name` is an exact name or `^regex$`."""
        found = self._ask("namespace.list", **{"ref": ref_text(ref)}, name=filter_by_name, limit=limit)
        return (Namespace(one["name"]) for one in found)

    def get_namespace(self, namespace: NamespaceArg, ref: RefArg) -> Namespace:
        """One namespace.

        Raises:
            NamespaceNotFoundError: if there is none at this ref.
        """
        name = namespace_name(namespace)
        for found in self.get_namespaces(ref, filter_by_name=f"^{re.escape(name or '')}$"):
            return found
        raise NamespaceNotFoundError(f"could not find the namespace `{name}` at `{ref_text(ref)}`")

    def has_namespace(self, namespace: NamespaceArg, ref: RefArg) -> bool:
        """Whether there is a namespace of that name at a ref."""
        try:
            self.get_namespace(namespace, ref)
        except NamespaceNotFoundError:
            return False
        return True

    def create_namespace(
        self,
        namespace: NamespaceArg,
        branch: BranchArg,
        *,
        commit_body: str | None = None,
        commit_properties: Mapping[str, str] | None = None,
        if_not_exists: bool = False,
    ) -> Namespace:
        """Creates an empty namespace on a branch.

        Raises:
            NamespaceExistsError: if it exists and `if_not_exists` is not set.
        """
        self._ask(
            "namespace.create",
            name=namespace_name(namespace),
            branch=branch_name(branch),
            if_not_exists=if_not_exists,
            body=commit_body,
            properties=dict(commit_properties or {}),
        )
        return Namespace(namespace_name(namespace) or "")

    def delete_namespace(
        self,
        namespace: NamespaceArg,
        branch: BranchArg,
        *,
        if_exists: bool = False,
        commit_body: str | None = None,
        commit_properties: Mapping[str, str] | None = None,
    ) -> Branch:
        """Deletes an empty namespace. Returns the branch after that.

        Raises:
            NamespaceNotFoundError: if there is none and `if_exists` is not set.
            NamespaceIsNotEmptyError: if it holds tables.
        """
        after = self._ask(
            "namespace.delete",
            name=namespace_name(namespace),
            branch=branch_name(branch),
            if_exists=if_exists,
            body=commit_body,
            properties=dict(commit_properties or {}),
        )
        return to_branch(after)

    def get_tables(
        self,
        ref: RefArg,
        *,
        filter_by_name: str | None = None,
        filter_by_namespace: NamespaceArg | None = None,
        limit: int | None = None,
    ) -> Iterator[Table]:
        """Tables at a ref, by namespace and name. Each table's metadata is read when the iterator comes to it.

        Args:
            ref: Any ref. All tables come from the commit it points to now.
            filter_by_name: Exact name or `^regex$`.
            filter_by_namespace: Only tables of this namespace.
            limit: At most so many.

        Raises:
            RefNotFoundError: if there is no such ref.

        Example:
            >>> [table.fqn for table in client.get_tables("main")]  # doctest: +SKIP
            ['default.flights']
        """
        [newest] = self._ask("commit.list", **{"ref": ref_text(ref)}, limit=1)
        pinned = f"@{newest['hash']}"
        listed = self._ask(
            "table.list",
            **{"ref": pinned},
            name=filter_by_name,
            namespace=namespace_name(filter_by_namespace),
            limit=limit,
        )
        return (self.get_table(one["name"], pinned, namespace=one["namespace"]) for one in listed)

    def get_table(self, table: TableArg, ref: RefArg, *, namespace: NamespaceArg | None = None) -> Table:
        """One table at a ref: its columns, partitions, size and where its metadata lies.

        Raises:
            TableNotFoundError: if there is none at this ref.
            NamespaceUnresolvedError: if `table` and `namespace` name different namespaces.

        Example:
            >>> client.get_table("flights", "main").records  # doctest: +SKIP
            336776
        """
        name, space = table_name(table, namespace)
        return to_table(self._ask("table.get", name=name, namespace=space, **{"ref": ref_text(ref)}))

    def has_table(self, table: TableArg, ref: RefArg, *, namespace: NamespaceArg | None = None) -> bool:
        """Whether there is a table of that name at a ref."""
        try:
            self.get_table(table, ref, namespace=namespace)
        except TableNotFoundError:
            return False
        return True

    def delete_table(
        self,
        table: TableArg,
        branch: BranchArg,
        *,
        namespace: NamespaceArg | None = None,
        if_exists: bool = False,
        commit_body: str | None = None,
        commit_properties: Mapping[str, str] | None = None,
    ) -> Branch:
        """Deletes a table from a branch; other branches and older commits keep it. Returns the branch after that.

        Raises:
            TableNotFoundError: if there is none and `if_exists` is not set.
        """
        name, space = table_name(table, namespace)
        after = self._ask(
            "table.delete",
            name=name,
            namespace=space,
            branch=branch_name(branch),
            if_exists=if_exists,
            body=commit_body,
            properties=dict(commit_properties or {}),
        )
        return to_branch(after)

    def revert_table(
        self,
        table: TableArg | Sequence[TableArg],
        *,
        namespace: NamespaceArg | None = None,
        source_ref: RefArg,
        into_branch: BranchArg,
        replace: bool = False,
        commit_body: str | None = None,
        commit_properties: Mapping[str, str] | None = None,
    ) -> Branch:
        """Puts a table on a branch as it is at another ref; several tables in one commit.

        What one run or commit changed together is reverted together: name all of its tables, or use `revert_run`.

        Args:
            table: A table, or several.
            namespace: Namespace of names without one.
            source_ref: Where the table is as it should be; any ref.
            into_branch: The branch to change.
            replace: Whether a table that is there may be replaced.
            commit_body: Rest of the commit message.
            commit_properties: Properties of the commit.

        Raises:
            TableNotFoundError: if it is not there at `source_ref`.
            RevertIdenticalTableError: if it is so already.
            RevertDestinationTableExistsError: if it is on the branch and `replace` is not set.
            PartialRevertError: if half of a commit that changed several tables would be there afterwards.
            ForbiddenError: if the ref holds results of a failed run.

        Example:
            >>> client.revert_table("flights", source_ref="main~1", into_branch="main", replace=True)  # doctest: +SKIP
            Branch(name='main', hash='5e6f7a8b…')
        """
        tables = [table] if isinstance(table, (str, Table)) else list(table)
        pairs = [table_name(one, namespace) for one in tables]
        names = [f"{space}.{name}" if space else name for name, space in pairs]
        after = self._ask(
            "table.revert",
            names=names,
            source=ref_text(source_ref),
            into=branch_name(into_branch),
            replace=replace,
            body=commit_body,
            properties=dict(commit_properties or {}),
        )
        return to_branch(after)

    def create_table(
        self,
        table: TableArg,
        search_uri: Union[str, "os.PathLike[str]"],
        *,
        branch: BranchArg | None = None,
        namespace: NamespaceArg | None = None,
        partitioned_by: str | None = None,
        sorted_by: str | None = None,
        replace: bool = False,
        client_timeout: float | None = None,
    ) -> Table:
        """Creates an empty table with the columns that files have.

        Args:
            table: Its name.
            search_uri: Path, glob, folder or URI (`file://`, `s3://`, …) of Parquet, CSV or JSON lines files.
            branch: Default: the active branch.
            namespace: Default: `default`.
            partitioned_by: `"day(ts), country"`; columns, `year month day hour` of one, `bucket(16, column)` or
                `truncate(4, column)`.
            sorted_by: `"country, ts desc"`: the order of the rows of each file.
            replace: Replaces an existing table.
            client_timeout: Seconds.

        Raises:
            TableExistsError: if it exists and `replace` is not set.
            InvalidDataError: if the files disagree (then use `plan_table_creation`) or cannot be read.

        Example:
            >>> client.create_table("flights", "data/flights-*.parquet")  # doctest: +SKIP
        """
        name, space = table_name(table, namespace)
        made = self._ask(
            "table.create",
            client_timeout,
            name=name,
            search_uri=absolute_uri(search_uri),
            branch=self._branch(branch),
            namespace=space,
            partitioned_by=partitioned_by,
            sorted_by=sorted_by,
            replace=replace,
        )
        return to_table(made)

    def plan_table_creation(
        self,
        table: TableArg,
        search_uri: Union[str, "os.PathLike[str]"],
        *,
        branch: BranchArg | None = None,
        namespace: NamespaceArg | None = None,
        partitioned_by: str | None = None,
        sorted_by: str | None = None,
        replace: bool = False,
        client_timeout: float | None = None,
    ) -> TableCreatePlanState:
        """Says which table `create_table` would make, as YAML; arguments as there.

        Where files disagree about the type of a column, the plan names the types. Leave one under the column's
        `dst_datatype`, empty `conflicts`, and apply it.

        Raises:
            InvalidDataError: if a file cannot be read.

        Example:
            >>> client.plan_table_creation("flights", "data").can_auto_apply  # doctest: +SKIP
            True
        """
        name, space = table_name(table, namespace)
        made = self._ask(
            "table.create-plan",
            client_timeout,
            name=name,
            search_uri=absolute_uri(search_uri),
            branch=self._branch(branch),
            namespace=space,
            partitioned_by=partitioned_by,
            sorted_by=sorted_by,
            replace=replace,
        )
        return TableCreatePlanState(
            job_id=made["job_id"],
            job_status="SUCCESS",
            plan=made["plan"],
            can_auto_apply=made["can_auto_apply"],
            conflicts=tuple(made["conflicts"]),
            files_to_be_imported=tuple(made["files_to_be_imported"]),
        )

    def apply_table_creation_plan(
        self, plan: Union[TableCreatePlanState, str], *, client_timeout: float | None = None
    ) -> Table:
        """Creates the empty table of a plan.

        Args:
            plan: What `plan_table_creation` returned, or its YAML, edited or not.
            client_timeout: Seconds.

        Raises:
            InvalidPlanError: if it has conflicts, or is no plan.
            TableExistsError: if the table exists and the plan does not replace it.

        Example:
            >>> client.apply_table_creation_plan(client.plan_table_creation("flights", "data"))  # doctest: +SKIP
        """
        text = plan.plan if isinstance(plan, TableCreatePlanState) else plan
        if not isinstance(text, str):
            raise TypeError(f"a plan is YAML text or what plan_table_creation() returned, not {type(plan).__name__}")
        return to_table(self._ask("table.create-plan-apply", client_timeout, plan=text))

    def create_external_table_from_metadata(
        self,
        table: TableArg,
        metadata_json_uri: Union[str, "os.PathLike[str]"],
        *,
        namespace: NamespaceArg | None = None,
        branch: BranchArg | None = None,
        overwrite: bool = False,
    ) -> Table:
        """Puts an Iceberg table of another engine on a branch, to be read. Its files stay where they are.

        Args:
            table: Its name here.
            metadata_json_uri: Path or URI of its metadata file.
            namespace: Default: `default`.
            branch: Default: the active branch.
            overwrite: Replaces an existing table, also to move on to newer metadata.

        Raises:
            TableExistsError: if there is a table of that name and `overwrite` is not set.
            InvalidDataError: if the file belongs to the lake itself.

        Example:
            >>> client.create_external_table_from_metadata("orders", "/w/orders/metadata/v3.metadata.json")  # doctest: +SKIP
        """
        name, space = table_name(table, namespace)
        made = self._ask(
            "table.create-external",
            name=name,
            metadata_uri=absolute_uri(metadata_json_uri),
            branch=self._branch(branch),
            namespace=space,
            overwrite=overwrite,
        )
        return to_table(made)

    def create_external_table_from_parquet(
        self,
        table: TableArg,
        search_patterns: Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]],
        *,
        branch: BranchArg | None = None,
        namespace: NamespaceArg | None = None,
        overwrite: bool = False,
        client_timeout: float | None = None,
    ) -> Table:
        """Makes a table of Parquet files where they lie, to be read. Nothing is copied.

        Args:
            table: Its name here.
            search_patterns: Paths, folders, globs or URIs (`file://`, `s3://`, `gs://`, `az://`) of Parquet files; one or
                several. Folders called `name=value` give a column.
            branch: Default: the active branch.
            namespace: Default: `default`.
            overwrite: Replaces an existing table, also to move on to the files that are there now.
            client_timeout: Seconds.

        Raises:
            TableExistsError: if there is a table of that name and `overwrite` is not set.
            InvalidDataError: if a file is damaged, of another kind, does not go together with the others, or is the lake's own.

        Example:
            >>> client.create_external_table_from_parquet("trips", "s3://bucket/trips/*.parquet").records  # doctest: +SKIP
            336776
        """
        name, space = table_name(table, namespace)
        patterns = [search_patterns] if isinstance(search_patterns, (str, os.PathLike)) else list(search_patterns)
        if not patterns:
            raise ValueError("there is no search pattern")
        made = self._ask(
            "table.create-external",
            client_timeout,
            name=name,
            search_patterns=[absolute_uri(pattern) for pattern in patterns],
            branch=self._branch(branch),
            namespace=space,
            overwrite=overwrite,
        )
        return to_table(made)

    def get_table_history(
        self, table: TableArg, ref: RefArg, *, namespace: NamespaceArg | None = None, limit: int | None = None
    ) -> Iterator[TableChange]:
        """What commits did to a table, newest first.

        Raises:
            TableNotFoundError: if no commit of the ref's history knows the table.

        Example:
            >>> [change.operation for change in client.get_table_history("flights", "main")]  # doctest: +SKIP
            ['append', 'append']
        """
        name, space = table_name(table, namespace)
        found = self._ask("table.history", name=name, namespace=space, limit=limit, **{"ref": ref_text(ref)})
        return (to_table_change(one) for one in found)

    def import_data(
        self,
        table: TableArg,
        search_uri: Union[str, "os.PathLike[str]"],
        *,
        branch: BranchArg | None = None,
        namespace: NamespaceArg | None = None,
        continue_on_error: bool = False,
        import_duplicate_files: bool = False,
        best_effort: bool = False,
        client_timeout: float | None = None,
    ) -> TableDataImportState:
        """Appends the rows of files to a table, as one commit. Files that were imported before are left out.

        Args:
            table: A table that exists.
            search_uri: Path, glob, folder or URI (`file://`, `s3://`, …) of Parquet, CSV or JSON lines files. Folders called
                `name=value` give a column.
            branch: Default: the active branch.
            namespace: Default: `default`.
            continue_on_error: Goes on without files that cannot be read; they are in `failed`.
            import_duplicate_files: Imports files again.
            best_effort: Leaves out columns the table does not have, and casts values that fit.
            client_timeout: Seconds.

        Raises:
            TableNotFoundError: if there is no such table.
            InvalidDataError: if a file does not fit the table.
            ForbiddenError: if the table is external.

        Example:
            >>> client.import_data("flights", "data/flights-*.parquet").rows  # doctest: +SKIP
            336776
        """
        name, space = table_name(table, namespace)
        done = self._ask(
            "table.import",
            client_timeout,
            name=name,
            search_uri=absolute_uri(search_uri),
            branch=self._branch(branch),
            namespace=space,
            continue_on_error=continue_on_error,
            import_duplicate_files=import_duplicate_files,
            best_effort=best_effort,
        )
        return TableDataImportState(
            job_id=done["job_id"],
            job_status="SUCCESS",
            branch=to_branch(done["ref"]),
            rows=done["rows"],
            files=tuple(done["files"]),
            skipped=tuple(done["skipped"]),
            failed={one["file"]: str(one["error"]) for one in done["failed"]},
        )
