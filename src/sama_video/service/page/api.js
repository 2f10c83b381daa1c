// What the service is asked. Every function throws an Error whose message a person can read.

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The service does not answer. Is it still running? Jobs are kept and go on when it is.");
  }
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const detail = body.detail;
    throw new Error(Array.isArray(detail) ? detail.map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; ") : detail || `${answer.status}`);
  }
  return body;
}

export const service = () => ask("api/service");
export const jobs = () => ask("api/jobs?limit=60");
export const cancel = (id) => ask(`api/jobs/${id}/cancel`, { method: "POST" });
export const retry = (id) => ask(`api/jobs/${id}/retry`, { method: "POST" });
export const remove = (id) => ask(`api/jobs/${id}`, { method: "DELETE" });
export const fileOf = (job, name) => `api/jobs/${job.id}/files/${encodeURIComponent(name)}`;

// An upload with its progress, which fetch does not tell.
export function add(form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "api/jobs");
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () => reject(new Error("The upload broke off. Is the service still running, and the file not too large?"));
    request.onload = () => {
      const body = request.response || {};
      if (request.status === 201) resolve(body);
      else reject(new Error(Array.isArray(body.detail) ? body.detail.map((one) => one.msg).join("; ") : body.detail || `${request.status}`));
    };
    request.send(form);
  });
}

// Calls back whenever the job changes, until it has ended; the browser connects again by itself when the server went away.
export function follow(id, onChange) {
  const events = new EventSource(`api/jobs/${id}/events`);
  events.onmessage = (event) => {
    const job = JSON.parse(event.data);
    if (hasEnded(job)) events.close();
    onChange(job);
  };
  return events;
}

export const hasEnded = (job) => ["done", "failed", "cancelled"].includes(job.state);
