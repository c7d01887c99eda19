"""Generation: texts that a model goes on with, asked for as OpenAI has it, and answered in parts by nodes.

`chat_request` and `completion_request` read a body into what a node is asked (`asked`), `parts` reads what it answers,
`chat_answer` and `completion_answer` write that for clients, and `run` sends a call and goes on at another node where one is lost.
"""
