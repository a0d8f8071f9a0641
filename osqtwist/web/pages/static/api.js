// The operators' API, as whoever is signed in.
const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";

/** The JSON that an operation answers; throws an Error in the API's words. A body makes it a POST. */
export async function api(path, body) {
  const options = { headers: { Accept: "application/json" }, credentials: "same-origin" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.headers["X-CSRF-Token"] = token;
    options.body = JSON.stringify(body);
  }
  const response = await fetch(`/api/v1/${path}`, options);
  if (response.status === 401) window.location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.detail ?? `the server answered ${response.status}`);
  return found;
}
