"""Input files -> their documents, one after the other, for uses of text without a dataset.

The builder reads the same files so that it can be interrupted, with a full account:
`stages/read.py`.
"""

from collections.abc import Iterator

from jaxgpt.corpus.cleaning.repair import RepairConfig, clean
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.sources import Inputs, SourcesConfig
from jaxgpt.corpus.stats.counts import DocumentCounts, make_sample
from jaxgpt.corpus.stats.input_checks import check_left, check_read


def read_documents(inputs: Inputs, config: SourcesConfig) -> Iterator[Document]:
    """Yield the documents of all files, repaired.

    Raises:
        BadInputError: after the last one, if too many records were bad or none was good.
    """
    tally = DocumentCounts()
    files = []
    for file in inputs.files:
        reader = FileReader(file, config)
        for record in reader:
            tally.count_read(record)
            repaired, _ = clean(record, RepairConfig())
            if isinstance(repaired, Document):
                yield repaired
            else:
                sample = make_sample(repaired.location, repaired.detail, repaired.sample)
                tally.count_dropped(
                    repaired.source, "read", repaired.reason, 0, sample, repaired.is_bad
                )
        description = {
            "name": file.name,
            "num_bytes": file.size,
            "num_records": reader.num_whole_records,
        }
        if problem := reader.problem:
            description |= {"problem": problem.kind, "detail": problem.detail}
        files.append(description)
    check_read(tally, files, config)
    check_left(tally, inputs)
