// What is asked of the endpoint: fields of a request, requests within its bounds, and the same as a curl command. Pure.

const PART_BYTES = 1024; // of a multipart body, beside the content of each part
const FIELDS_BYTES = 64 * 1024; // kept free for the fields: the longest question, and more

/** [name, value] of every field that is set, in the order in which people read them. */
export function fields(model, { prompt, question, sampling }) {
  const set = [["model", model.name]];
  if (model.skill) set.push(["specialist", model.skill]);
  if (prompt) set.push(["prompt", prompt]);
  else if (question) set.push(["question", question]);
  for (const [name, value] of Object.entries(sampling)) if (value !== "") set.push([name, value]);
  return set;
}

/** Multipart, streamed. */
export function form(files, set) {
  const body = new FormData();
  for (const [name, value] of set) body.append(name, value);
  body.append("stream", "true");
  for (const file of files) body.append("image", file, file.name);
  return body;
}

/** Whether a picture can be sent at all. */
export const fits = (file, limits) => file.size + PART_BYTES + FIELDS_BYTES <= limits.max_body_mb * 2 ** 20;

/** Pictures in as few requests as the endpoint's bounds on a body and on images allow, in order. */
export function grouped(pictures, limits) {
  const groups = [];
  let free = 0;
  for (const picture of pictures) {
    const size = picture.file.size + PART_BYTES;
    if (!groups.length || size > free || groups.at(-1).length >= limits.max_images) {
      groups.push([]);
      free = limits.max_body_mb * 2 ** 20 - FIELDS_BYTES;
    }
    groups.at(-1).push(picture);
    free -= size;
  }
  return groups;
}

/** The command that asks the same. The picture is read from the folder it is run in, the key from the environment. */
export function curl(url, file, set, hasKey) {
  const lines = [`curl ${quoted(url)}`];
  if (hasKey) lines.push('-H "Authorization: Bearer $VILA2_API_KEY"');
  lines.push(`-F ${quoted(`image=@"${file.name.replace(/[\\"]/g, "\\$&")}"`)}`);
  for (const [name, value] of set) lines.push(`--form-string ${quoted(`${name}=${value}`)}`);
  return lines.join(" \\\n  ");
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
