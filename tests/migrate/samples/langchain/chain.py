from langchain_community.llms import VLLM
from langchain_core.prompts import ChatPromptTemplate
from langchain_ollama import ChatOllama

chat = ChatOllama(model="llama3.1:70b", base_url="http://ollama:11434", stop=["<|eot_id|>"])
local = VLLM(model="meta-llama/Llama-3.1-8B-Instruct", vllm_kwargs={"max_model_len": 8192})
prompt = ChatPromptTemplate.from_messages([("system", "Be kind."), ("human", "{question}")])
chain = prompt | chat


def run_tool(text: str) -> str | None:
    if text.startswith("<|python_tag|>"):
        return text.removeprefix("<|python_tag|>").removesuffix("<|eom_id|>")
    return None
