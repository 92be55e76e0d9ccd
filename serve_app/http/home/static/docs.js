// Swagger UI over this runtime's own document, with the key that the home page keeps in this tab.

import { getJson, storedKey } from "./api.js";

const spec = await getJson("openapi.json");
globalThis.SwaggerUIBundle({
  spec: { ...spec, servers: spec.servers ?? [{ url: new URL(".", document.baseURI).pathname.replace(/\/$/, "") || "/" }] },
  dom_id: "#swagger",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  validatorUrl: null,
  requestInterceptor: (request) => {
    if (storedKey() && !request.headers.authorization) request.headers.authorization = `Bearer ${storedKey()}`;
    return request;
  },
});
