"""The chat template, tools included, for programs that render a string and then encode it.

There a typed `<|end|>` is not safe: transformers' chat path (`apply_chat_template`) and llama.cpp's
chat endpoint both make it the control id, with which a user can end a message and speak as another
role. Only `split_special_tokens=True` in transformers, and `parse_special: false` in llama.cpp's
`/tokenize`, do not.
"""

import json
import re

from jaxgpt.tokenizer.chat_template import ASSISTANT, ORDER, SYSTEM, USER
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES
from jaxgpt.tokenizer.tool_calls import (
    AFTER_TOOLS,
    BEFORE_TOOLS,
    CALL,
    END_OF_CALL,
    END_OF_RESULT,
    RESULT,
)

# With the tags that transformers marks predicted text by. Each line ends where white space is
# dropped, so that nothing but the pieces is written. Names in capitals are replaced below.
_SOURCE = """\
{{- BOS -}}
{%- set first = 1 if messages and messages[0]['role'] == 'system' else 0 -%}
{%- if tools -%}
{{- OF_SYSTEM -}}
{%- if first and messages[0]['content'] -%}{{- messages[0]['content'] + BLANK_LINE -}}{%- endif -%}
{{- BEFORE_TOOLS -}}
{%- for tool in tools -%}{{- LINE + (tool | tojson) -}}{%- endfor -%}
{{- AFTER_TOOLS + END_OF_MESSAGE -}}
{%- endif -%}
{%- set state = namespace(previous='', called=false, text='') -%}
{%- for message in messages -%}
{%- set role = message['role'] -%}
{%- set previous = state.previous -%}
{%- if not (
  (role == 'system' and loop.index0 < first)
  or (role == 'user' and previous in ['', 'system', 'assistant'])
  or (role == 'assistant' and previous in ['user', 'tool'])
  or (role == 'tool' and (previous == 'tool' or previous == 'assistant' and state.called))
) -%}
{{- raise_exception('roles out of order; allowed: ' + ORDER) -}}
{%- endif -%}
{%- if role == 'tool' and previous != 'tool' -%}
{%- set calls = messages[loop.index0 - 1]['tool_calls'] -%}
{%- set group = namespace(results=[], order=[], goes_on=true, named=false) -%}
{%- for call in calls -%}
{%- if call['id'] is string -%}{%- set group.named = true -%}{%- endif -%}
{%- endfor -%}
{%- for result in messages[loop.index0:] -%}
{%- if result['role'] != 'tool' -%}{%- set group.goes_on = false -%}{%- endif -%}
{%- if group.goes_on -%}
{%- set group.results = group.results + [result] -%}
{%- if result['tool_call_id'] is not string -%}{%- set group.named = false -%}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- for call in calls if group.named -%}
{%- set group.goes_on = true -%}
{%- for result in group.results -%}
{%- if group.goes_on and result['tool_call_id'] == call['id'] and loop.index0 not in group.order -%}
{%- set group.order = group.order + [loop.index0] -%}{%- set group.goes_on = false -%}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- if (group.order if group.named else calls) | length < group.results | length -%}
{{- raise_exception('a result belongs to no call, or to one that has its result') -}}
{%- endif -%}
{{- OF_USER -}}
{%- for result in group.results -%}
{%- set result = group.results[group.order[loop.index0]] if group.named else result -%}
{{- (LINE if not loop.first else '') + RESULT + result['content'] + END_OF_RESULT -}}
{%- endfor -%}
{{- END_OF_MESSAGE -}}
{%- elif role == 'tool' -%}
{#- Written with the first result of its message. -#}
{%- elif role == 'assistant' -%}
{%- set state.called = true if message['tool_calls'] else false -%}
{%- set state.text = (message['content'] or '') if state.called else message['content'] -%}
{%- for given in message['tool_calls'] or [] -%}
{%- set call = given['function'] if given['function'] else given -%}
{%- set arguments = call['arguments'] -%}
{%- if arguments is not string -%}{%- set arguments = arguments | tojson -%}{%- endif -%}
{%- set state.text = state.text + (LINE if state.text else '') + CALL + (call['name'] | tojson)
  + ARGUMENTS + arguments + END_OF_CALL -%}
{%- endfor -%}
{{- OF_ASSISTANT -}}
{%- if message['train'] is not defined or message['train'] -%}
{%- generation -%}{{- state.text + END_OF_MESSAGE -}}{%- endgeneration -%}
{%- else -%}
{{- state.text + END_OF_MESSAGE -}}
{%- endif -%}
{%- elif role == 'user' or not tools -%}
{{- '<|' + role + '|>' + message['content'] + END_OF_MESSAGE -}}
{%- endif -%}
{%- set state.previous = role -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- OF_ASSISTANT -}}{%- endif -%}
"""
_TEXTS = {
    "BOS": CONTROL_PIECES["bos"],
    "END_OF_MESSAGE": CONTROL_PIECES["end"],
    "OF_SYSTEM": CONTROL_PIECES[SYSTEM],
    "OF_USER": CONTROL_PIECES[USER],
    "OF_ASSISTANT": CONTROL_PIECES[ASSISTANT],
    "ORDER": ORDER,
    "BLANK_LINE": "\n\n",
    "LINE": "\n",
    "BEFORE_TOOLS": BEFORE_TOOLS,
    "AFTER_TOOLS": AFTER_TOOLS,
    "RESULT": RESULT,
    "END_OF_RESULT": END_OF_RESULT,
    "CALL": f'{CALL}\n{{"name": ',
    "ARGUMENTS": ', "arguments": ',
    "END_OF_CALL": f"}}\n{END_OF_CALL}",
}


def _jinja_string(text: str) -> str:
    """Return a text as Jinja writes a string: with the escapes of JSON, in single quotes."""
    inner = json.dumps(text, ensure_ascii=False)[1:-1]
    return "'" + inner.replace('\\"', '"').replace("'", "\\'") + "'"


JINJA = re.sub(r"\b[A-Z][A-Z_]+\b", lambda match: _jinja_string(_TEXTS[match[0]]), _SOURCE)
