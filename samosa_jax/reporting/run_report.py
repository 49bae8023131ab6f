"""The report of a run: everything that it and the runs before it have left, in one document."""

from pathlib import Path

from samosa_jax.reporting.document import Document
from samosa_jax.reporting.evaluation_part import evaluation_section, probe_section
from samosa_jax.reporting.lineage import Lineage
from samosa_jax.reporting.origins_part import data_section, environment_section, export_section
from samosa_jax.reporting.overview_part import head_facts, overview_section, settings_section
from samosa_jax.reporting.samples_part import samples_section
from samosa_jax.reporting.training_part import tag_section, training_section


def run_report(lineage: Lineage, *, exports: Path, cost_per_hour: float | None, now: str) -> Document:
    """The document. `now` is when it is written, as the reader will see it."""
    last = lineage.last
    way = " → ".join(f"{run.name} ({run.stage})" for run in lineage.runs)
    return Document(
        title=f"Run {last.name}",
        subtitle=way,
        facts=head_facts(lineage, cost_per_hour=cost_per_hour),
        sections=[
            overview_section(lineage, cost_per_hour=cost_per_hour),
            evaluation_section(lineage),
            probe_section(lineage),
            training_section(lineage),
            tag_section(lineage),
            samples_section(lineage),
            data_section(lineage),
            settings_section(lineage),
            environment_section(lineage),
            export_section(lineage, exports=exports),
        ],
        footer=f"Written {now} by samosa report from {last.folder}, step {last.last_step:,}.",
    )
