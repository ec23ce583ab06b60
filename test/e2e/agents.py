"""An agent with a scripted model: agents.py FRAMEWORK. The model asks for a payment and for a mail, each twice, as one
does that did not see its first answer. Nothing here knows of a proxy."""
import asyncio, json, os, sys

import httpx
import requests

SCRIPT = [("pay", {"amount": 4200}), ("pay", {"amount": 4200}), ("send_mail", {"to": "customer@example.test"}), ("send_mail", {"to": "customer@example.test"})]


def pay(amount: int) -> str:
    """Charge the customer."""
    data = {"amount": amount, "currency": "usd", "source": "tok_visa", "description": sys.argv[1]}
    r = requests.post(os.environ["STRIPE_URL"], data=data, auth=("sk_test_123", ""), timeout=30)
    r.raise_for_status()
    return r.json()["id"]


def send_mail(to: str) -> str:
    """Send the receipt."""
    mail = {"From": {"Email": "agent@example.test"}, "To": [{"Email": to}], "Subject": "Receipt from " + sys.argv[1], "Text": "Thank you."}
    r = httpx.post(os.environ["MAIL_URL"], json=mail, timeout=30)
    r.raise_for_status()
    return r.json()["ID"]


def openai_agents():
    from agents import Agent, Runner, function_tool, set_tracing_disabled
    from agents.items import ModelResponse
    from agents.models.interface import Model
    from agents.usage import Usage
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    set_tracing_disabled(True)

    class Scripted(Model):
        step = 0

        async def get_response(self, *args, **kwargs):
            self.step += 1
            if self.step > len(SCRIPT):
                said = ResponseOutputText(text="paid and told", type="output_text", annotations=[])
                out = ResponseOutputMessage(id="m", content=[said], role="assistant", status="completed", type="message")
            else:
                name, args = SCRIPT[self.step - 1]
                out = ResponseFunctionToolCall(call_id=f"call-{self.step}", name=name, arguments=json.dumps(args), type="function_call")
            return ModelResponse(output=[out], usage=Usage(), response_id=None)

        def stream_response(self, *args, **kwargs):
            raise NotImplementedError

    agent = Agent(name="billing", instructions="Pay and tell.", model=Scripted(), tools=[function_tool(pay), function_tool(send_mail)])
    result = asyncio.run(Runner.run(agent, "go", max_turns=10))
    return result.final_output, [item.output for item in result.new_items if item.type == "tool_call_output_item"]


def langchain():
    from langchain.agents import create_agent
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool

    class Scripted(BaseChatModel):
        @property
        def _llm_type(self):
            return "scripted"

        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            step = sum(isinstance(m, ToolMessage) for m in messages)
            if step < len(SCRIPT):
                name, args = SCRIPT[step]
                said = AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{step}"}])
            else:
                said = AIMessage("paid and told")
            return ChatResult(generations=[ChatGeneration(message=said)])

    agent = create_agent(Scripted(), [tool(pay), tool(send_mail)])
    messages = agent.invoke({"messages": [("user", "go")]})["messages"]
    return messages[-1].content, [m.content for m in messages if isinstance(m, ToolMessage)]


final, outputs = {"openai-agents": openai_agents, "langchain": langchain}[sys.argv[1]]()
print(json.dumps({"final": final, "outputs": outputs}))
