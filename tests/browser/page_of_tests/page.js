import { Api, Problem, element } from "./shared/api.js";

const api = new Api(new URL("./", location.href));
const show = (id, text) => { document.getElementById(id).textContent = text; };

window.ask = async (path) => {
  try {
    show("answer", JSON.stringify(await api.get(path)));
  } catch (error) {
    show("answer", error instanceof Problem ? `${error.status}: ${error.message}` : String(error));
  }
};

window.listen = async (path) => {
  for await (const { type, data, id } of api.events(path, { onState: (text) => show("state", text) })) {
    document.getElementById("events").append(element("li", {}, `${type} ${id}: ${data}`));
  }
};
