"use strict";
// Loads the OpenAPI document of the service, with its token if it requires one, and shows it in Swagger UI.
const form = document.querySelector("form");

async function load(token) {
  const headers = token ? {authorization: `Bearer ${token}`} : {};
  const response = await fetch("openapi.json", {headers});
  form.hidden = response.ok;
  if (!response.ok) return;
  const spec = await response.json();
  spec.servers = [{url: location.pathname.replace(/\/docs$/, "") || "/"}];  // also behind a proxy that cuts the path
  document.title = spec.info.title;
  const page = SwaggerUIBundle({
    spec, domNode: document.getElementById("page"), tryItOutEnabled: true, displayRequestDuration: true,
    docExpansion: "full", defaultModelsExpandDepth: 0, validatorUrl: null,
    onComplete: () => token && page.preauthorizeApiKey("token", token),
  });
}

document.documentElement.classList.toggle("dark-mode", matchMedia("(prefers-color-scheme: dark)").matches);
form.onsubmit = (event) => { event.preventDefault(); load(form.querySelector("input").value); };
load();
