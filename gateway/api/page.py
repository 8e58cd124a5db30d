"""/docs: one page that draws /openapi.json; nothing is loaded from elsewhere."""

from typing import Final

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)

PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Columba HTTP API</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
  details { border: 1px solid #8884; border-radius: .4rem; margin: .5rem 0; padding: .5rem 1rem }
  summary { cursor: pointer } code, pre { font: 13px/1.45 ui-monospace, monospace }
  pre { background: #8881; padding: .75rem; overflow: auto; border-radius: .3rem }
  .method { display: inline-block; min-width: 3.5rem; font-weight: 600 }
  td, th { text-align: left; vertical-align: top; padding: .1rem 1rem .1rem 0 }
  @media (prefers-color-scheme: dark) { body { background: #16181c; color: #ddd } }
</style>
<h1>Columba HTTP API</h1>
<p id="about">Reading <a href="openapi.json">openapi.json</a>…</p>
<main></main>
<script>
const el = (tag, text, ...children) => {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
};
const name = ref => ref.split("/").pop();
const type = schema => {
  if (!schema) return "";
  if (schema.$ref) return name(schema.$ref);
  const either = schema.anyOf || schema.oneOf;
  if (either) return either.map(type).join(" or ");
  if (schema.enum) return schema.enum.map(v => JSON.stringify(v)).join(" or ");
  if (schema.type === "array") return "list of " + type(schema.items);
  return schema.type || "anything";
};
const fields = schema => {
  const table = el("table");
  for (const [key, value] of Object.entries(schema.properties || {})) {
    const must = (schema.required || []).includes(key) ? "required" : "";
    table.append(el("tr", "", el("td", "", el("code", key)), el("td", type(value)),
      el("td", must), el("td", value.description || "")));
  }
  return table;
};
const shown = (content, out) => {
  for (const [media, body] of Object.entries(content || {})) {
    if (body.schema) out.append(el("p", media + ": " + type(body.schema)));
    const examples = Object.values(body.examples || {}).map(e => [e.summary, e.value]);
    if (body.example !== undefined) examples.push(["", body.example]);
    for (const [title, value] of examples) {
      if (title) out.append(el("p", title));
      out.append(el("pre", JSON.stringify(value, null, 2)));
    }
  }
};
const draw = api => {
  document.getElementById("about").textContent = api.info.summary + ". Version " + api.info.version;
  const main = document.querySelector("main");
  for (const [path, operations] of Object.entries(api.paths))
    for (const [method, operation] of Object.entries(operations)) {
      const out = el("details", "", el("summary", "", el("span", method.toUpperCase()),
        el("code", path), document.createTextNode("  " + (operation.summary || ""))));
      out.querySelector("span").className = "method";
      if (operation.description) out.append(el("p", operation.description));
      if (operation.security) out.append(el("p", "Needs the header Authorization: Bearer <API key>"));
      for (const p of operation.parameters || [])
        out.append(el("p", "", el("code", p.name), document.createTextNode(
          " in " + p.in + (p.required ? ", required" : "") + (p.description ? ": " + p.description : ""))));
      if (operation.requestBody) { out.append(el("h3", "Body")); shown(operation.requestBody.content, out); }
      for (const [code, answer] of Object.entries(operation.responses)) {
        out.append(el("h3", code + " " + answer.description));
        shown(answer.content, out);
      }
      main.append(out);
    }
  main.append(el("h2", "Shapes"));
  for (const [title, schema] of Object.entries(api.components.schemas)) {
    const out = el("details", "", el("summary", "", el("code", title)));
    if (schema.description) out.append(el("p", schema.description));
    out.append(fields(schema));
    main.append(out);
  }
};
fetch("openapi.json").then(answer => answer.json()).then(draw).catch(error => {
  document.getElementById("about").textContent = "openapi.json could not be read: " + error;
});
</script>
</html>
"""
