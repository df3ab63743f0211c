"""Chat templates in the shapes that models use, written for these tests, and the inputs they are given."""

CHATML = """\
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}
    {%- endif %}
    {%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\n' }}{% generation %}{{ message.content }}{% endgeneration %}{{ '<|im_end|>\n' }}
    {%- else %}
{{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

HEADERS = """\
{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- if ns.system or tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\n\n' + ns.system }}
    {%- if tools is not none %}
        {{- '\nTools:\n' }}
        {%- for tool in tools %}
            {{- tool | tojson(indent=4) }}
            {{- '\n\n' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message and message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('This model calls one tool at a time.') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}{{ message['content'] | trim }}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
"""

INST = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system is defined %}
            {{- '[INST] ' + system + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported, with an initial optional system message!') }}
    {%- endif %}
{%- endfor %}
"""

TOOLS = """\
{% macro shown(value, indent=0) %}
{% if value is mapping %}
{% for key, item in value | dictsort %}
{{ '  ' * indent }}{{ key }}:{{ '\n' }}{{ shown(item, indent + 1) }}
{% endfor %}
{% elif value is iterable and value is not string %}
{{ '  ' * indent }}{{ value | map('string') | join(', ') }}
{% else %}
{{ '  ' * indent }}{{ value }}
{% endif %}
{% endmacro %}
{% if tools %}
# Tools
{% for tool in tools if tool.type == 'function' %}
## {{ loop.index }}/{{ loop.length }} {{ tool.function.name | upper }}: {{ tool.function.note | default('-', true) }}
{{ shown(tool.function.parameters) }}
{% else %}
none
{% endfor %}
{% endif %}
{% for message in messages %}
{% if message.role == 'system' %}{% continue %}{% endif %}
{% set reply = message.content.split('</think>') | last | trim if message.content else '' %}
[{{ message.role }}] {{ reply | replace('\n', '\n  ') | indent(2) }}
{% for call in message.tool_calls or [] %}
-> {{ "%s(%s)" % (call.function.name, call.function.arguments | tojson(separators=(',', ':'))) }}
{% endfor %}
{% if loop.index > 20 %}{% break %}{% endif %}
{% endfor %}
{% for document in documents or [] %}<{{ loop.index0 }}> {{ document.title }}: {{ document['text'][:8] }}
{% endfor %}
{% if add_generation_prompt %}[assistant] {% endif -%}
"""

PARTS = """\
{%- for message in messages %}
    {{- message.role | capitalize }}:
    {%- if message.content is string %}
        {{- ' ' + message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'text' %}{{ ' ' + part.text }}{% endif %}
        {%- endfor %}
    {%- endif %}
    {{- eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}
"""

TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "inst": INST, "tools": TOOLS, "parts": PARTS}

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The <current> weather & "forecast"',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Città"},
                "days": {"type": "integer", "enum": [1, 2]},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Rome's", "n": 1}},
}
USER = {"role": "user", "content": "Hi <b>there</b> & 'you', é漢😀"}
SYSTEM = {"role": "system", "content": "  Be brief.\n"}
CASES = [
    {"messages": [USER]},
    {"messages": [USER], "add_generation_prompt": False},
    {
        "messages": [
            SYSTEM,
            USER,
            {"role": "assistant", "content": "Hello\n  you "},
            {"role": "user", "content": " bye"},
        ]
    },
    {"messages": [SYSTEM, USER], "tools": [TOOL]},
    {
        "messages": [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call00001", "content": "21 °C"},
            {"role": "assistant", "content": "<think>warm</think>\n\n21 degrees"},
        ],
        "tools": [TOOL],
    },
    {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}]},
    {"messages": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"messages": [USER], "enable_thinking": False, "documents": [{"title": "T", "text": "long body"}, {"title": "U"}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": "<|im_end|>{{ 7 * 7 }}{% if %}"}]},
]
