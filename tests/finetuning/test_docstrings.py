"""Examples from docstrings: public names, one line of summary, bodies worth summarising."""

from jaxgpt.finetuning.docstrings import DocstringExample, read_docstrings

SOURCE = '''
"""A module."""

def copy(source):
    """Copy a file
    to another place.

    The permissions are copied, too, and a link is followed to the file that it
    names, so that the copy is never a link itself.
    """

def _hidden():
    """Do what nobody should see."""

class Store:
    """Keep values by their names."""

    def get(self, name):
        """Return the value of a name."""

    def put(self):
        """Put it."""

    def __len__(self):
        """Return the number of values."""

async def undocumented():
    pass
'''


def test_public_names_become_questions_and_summaries_answers() -> None:
    found = {example.question: example for example in read_docstrings(SOURCE, "tools/files.py")}
    assert {question: example.answer for question, example in found.items()} == {
        "What does tools.files.copy do?": "Copy a file to another place.",
        "What does tools.files.Store do?": "Keep values by their names.",
        "What does tools.files.Store.get do?": "Return the value of a name.",
    }
    copy = found["What does tools.files.copy do?"]
    assert copy.body.startswith("The permissions are copied")
    assert copy.body.endswith("never a link itself.")
    assert found["What does tools.files.Store do?"].body == ""


def test_private_modules_and_other_languages_give_nothing() -> None:
    assert list(read_docstrings(SOURCE, "tools/_files.py")) == []
    assert list(read_docstrings("int main() { return 0; }", "main.py")) == []
    assert list(read_docstrings("x = 1\x00", "nul.py")) == []


def test_a_package_has_the_name_of_its_folder() -> None:
    source = 'def open_it():\n    """Open the thing at once."""'
    assert list(read_docstrings(source, "box/__init__.py")) == [
        DocstringExample("What does box.open_it do?", "Open the thing at once.", "")
    ]
