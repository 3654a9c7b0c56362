// What is asked of the endpoint: fields of a request, requests within its bounds, and the same as a curl command. Pure.

/** Bytes that a part of a multipart body takes beside its content. */
const PART_BYTES = 1024;

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

/** Pictures in as few requests as the endpoint's bounds on a body and on images allow. */
export function grouped(pictures, limits) {
  const groups = [];
  let bytes = Infinity;
  for (const picture of pictures) {
    const size = picture.file.size + PART_BYTES;
    const isFull = bytes + size > limits.max_body_bytes - 8 * PART_BYTES || groups.at(-1).length >= limits.max_images;
    if (isFull) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1).push(picture);
    bytes += size;
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
